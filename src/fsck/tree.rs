//! The lower directory against the catalog.

use super::{Cure, Findings, Result, Severity};
use crate::catalog::{Candidate, Snapshot};
use crate::lower::{Inspection, LowerStat, Room, is_as_released, partial_of};
use crate::recording::{Hasher, Kind, NodeId, State};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const START: &str = "start spoolfs: it takes this over by itself";

struct Look<'a> {
    snapshot: &'a Snapshot,
    lower: &'a Inspection,
    deep: bool,
    findings: &'a mut Findings,
    /// Nodes that are where the catalog does not have them.
    elsewhere: HashMap<NodeId, PathBuf>,
    missing: Vec<Candidate>,
}

/// Checks names, identities, stamps, and the private directory.
pub(super) fn check(
    snapshot: &Snapshot,
    lower: &Inspection,
    deep: bool,
    findings: &mut Findings,
) -> Result<()> {
    let (elsewhere, missing) = (HashMap::new(), Vec::new());
    let mut look = Look { snapshot, lower, deep, findings, elsewhere, missing };
    let mut stack = vec![(PathBuf::new(), NodeId::ROOT, true)];
    while let Some((path, id, there)) = stack.pop() {
        look.directory(&path, id, there, &mut stack)?;
    }
    look.what_is_missing();
    look.private()
}

impl Look<'_> {
    /// One directory of the catalog; `there`: it is below, too.
    fn directory(
        &mut self,
        path: &Path,
        id: NodeId,
        there: bool,
        stack: &mut Vec<(PathBuf, NodeId, bool)>,
    ) -> Result<()> {
        let children = self.snapshot.children(id)?;
        let mut below: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
        if there {
            below.extend(self.lower.names(path)?.into_iter().map(|name| (name, ())));
        }
        for (name, it) in children {
            self.findings.looked.names += 1;
            let found = below.remove(&name).is_some();
            let stat = if found { Some(self.lower.stat(&it.path)?) } else { None };
            let is_dir = it.row.attr.kind == Kind::Dir;
            if is_dir {
                stack.push((it.path.clone(), it.row.id, stat.is_some()));
            }
            match stat {
                Some(stat) => self.both(&it, &stat)?,
                None if it.row.state == State::Released => {}
                None => self.missing.push(it),
            }
        }
        for name in below.into_keys() {
            self.unknown(&path.join(OsStr::from_bytes(&name)))?;
        }
        Ok(())
    }

    /// A name that is in the catalog and below.
    fn both(&mut self, it: &Candidate, stat: &LowerStat) -> Result<()> {
        let place = it.path.display().to_string();
        if stat.node != Some(it.row.id) {
            let found = match stat.node {
                Some(other) => {
                    self.elsewhere.insert(other, it.path.clone());
                    if stat.attr.kind == Kind::Dir {
                        self.moved_below(&it.path)?;
                    }
                    format!("node {other}")
                }
                None => "a file without an identity".to_owned(),
            };
            let expected = format!("node {}", it.row.id);
            self.findings.add((Severity::Pending, 12), place, expected, found, START);
            return Ok(());
        }
        if it.row.attr.kind != Kind::File {
            return Ok(());
        }
        match (it.row.state, it.row.hashed) {
            (State::Released, _) => {
                self.findings.add(
                    (Severity::Pending, 13),
                    place,
                    "no local copy: it is released",
                    "a local copy",
                    "start spoolfs: it compares the copy with what is archived",
                );
            }
            (State::Closed | State::Archived, Some(hashed)) if hashed != stat.version => {
                self.findings.add(
                    (Severity::Pending, 14),
                    place,
                    format!("unchanged since it was hashed: {hashed:?}"),
                    format!("{:?}", stat.version),
                    "start spoolfs: it is hashed anew, and archived again if its content changed",
                );
            }
            (State::Closed | State::Archived, Some(_)) if self.deep => self.content(it)?,
            _ => {}
        }
        Ok(())
    }

    fn content(&mut self, it: &Candidate) -> Result<()> {
        let mut hasher = Hasher::default();
        let mut piece = vec![0; 256 << 10];
        let mut file = self.lower.read(&it.path)?;
        let trouble = loop {
            match file.read(&mut piece) {
                Ok(0) => break None,
                Ok(read) => hasher.update(piece.get(..read).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => break Some(format!("it can not be read: {e}")),
            }
        };
        self.findings.looked.bytes_hashed += hasher.len();
        let sha256 = hasher.finish().0;
        let wrong = trouble
            .or_else(|| (Some(sha256) != it.row.sha256).then(|| format!("SHA-256 {sha256}")));
        if let Some(found) = wrong {
            let meant = it.row.sha256.map_or_else(String::new, |sha256| sha256.to_string());
            let cure = if it.row.state == State::Archived {
                "check the disk; what was archived is whole: take the local copy away with spoolfs \
                 stopped, and recall it"
            } else {
                "check the disk; it is not archived yet, keep what can be read"
            };
            self.findings.add(
                (Severity::Damage, 15),
                it.path.display().to_string(),
                format!("SHA-256 {meant}, as it was hashed; its stamp is unchanged"),
                found,
                cure,
            );
        }
        Ok(())
    }

    /// A name that the catalog has not.
    fn unknown(&mut self, path: &Path) -> Result<()> {
        let stat = self.lower.stat(path)?;
        let known = match stat.node {
            Some(id) => self.snapshot.node(id)?.map(|(state, old)| (id, state, old)),
            None => None,
        };
        match known.filter(|(_, state, _)| *state != State::Deleted) {
            Some((id, _, old)) => {
                self.elsewhere.insert(id, path.to_owned());
                let old = old.map_or_else(|| "nowhere".to_owned(), |p| p.display().to_string());
                self.findings.add(
                    (Severity::Pending, 11),
                    path.display().to_string(),
                    "a name that the catalog has",
                    format!("node {id}, which the catalog has as {old}"),
                    START,
                );
                if stat.attr.kind == Kind::Dir {
                    self.moved_below(path)?;
                }
            }
            None => {
                if stat.attr.kind == Kind::Dir {
                    // Made anew perhaps, with something moved into it.
                    self.moved_below(path)?;
                }
                let what = if stat.attr.kind == Kind::Dir { "a directory" } else { "a file" };
                self.findings.add(
                    (Severity::Pending, 11),
                    path.display().to_string(),
                    "a name that the catalog has",
                    format!("{what} that it does not know"),
                    START,
                );
            }
        }
        Ok(())
    }

    /// What is below a directory that was moved is not missing: it moved with it.
    fn moved_below(&mut self, path: &Path) -> Result<()> {
        let mut dirs = vec![path.to_owned()];
        while let Some(dir) = dirs.pop() {
            for name in self.lower.names(&dir)? {
                let path = dir.join(OsStr::from_bytes(&name));
                let stat = self.lower.stat(&path)?;
                if stat.attr.kind == Kind::Dir {
                    dirs.push(path.clone());
                }
                if let Some(id) = stat.node {
                    self.elsewhere.entry(id).or_insert(path);
                }
            }
        }
        Ok(())
    }

    fn what_is_missing(&mut self) {
        for it in std::mem::take(&mut self.missing) {
            if self.elsewhere.contains_key(&it.row.id) {
                // Said where it is.
                continue;
            }
            let expected = format!("a local copy: it is {}", it.row.state);
            let place = it.path.display().to_string();
            let (severity, cure, repair) = match (it.row.attr.kind, it.row.state) {
                (Kind::File, State::Archived) => (
                    Severity::Pending,
                    "repair it, or start spoolfs: it counts as released from then on",
                    Some(Cure::Released(it.row.id)),
                ),
                (Kind::File, _) => (
                    Severity::Damage,
                    "look for it in .spl/found and in a backup, and put it back before spoolfs \
                     is started: what was never archived is forgotten then",
                    None,
                ),
                _ => (Severity::Pending, START, None),
            };
            let what = (severity, 10);
            self.findings.add(what, place, expected, "nothing below", cure);
            self.findings.repairable(repair);
        }
    }

    fn partials(&mut self) -> Result<()> {
        for (name, stat) in self.lower.private(Room::Partial)? {
            // Logs go with what they belong to.
            let Some((id, generation)) = partial_of(&name) else { continue };
            let fits = match self.snapshot.standing(id)? {
                Some((State::Released, now)) => now == generation,
                // Nobody has it open any more.
                Some((State::Deleted, _)) => true,
                _ => false,
            };
            let (severity, cure) = match fits {
                true => (Severity::Pending, "start spoolfs: what it lacks is fetched"),
                false => (
                    Severity::Wrong,
                    "start spoolfs: if another file has its name it is moved to .spl/found; compare \
                     the two",
                ),
            };
            self.findings.add(
                (severity, 24),
                format!(".spl/partial/{name}"),
                "nothing",
                format!(
                    "{} bytes of a recording that was written to while released",
                    stat.attr.size
                ),
                cure,
            );
        }
        Ok(())
    }

    /// Files in the trash against those that the catalog has there.
    fn trash(&mut self) -> Result<()> {
        let mut wanted = self.snapshot.trash_local()?;
        for (name, stat) in self.lower.private(Room::Trash)? {
            let id = name.parse().ok().map(NodeId);
            let kept = id.and_then(|id| wanted.remove(&id));
            let ours = kept.is_some() && stat.node == id;
            if ours && kept.flatten().is_none_or(|hashed| hashed == stat.version) {
                continue;
            }
            let cure = "start spoolfs: it is taken into the trash, and hashed anew";
            let found = format!("{} bytes that the catalog does not know so", stat.attr.size);
            let place = format!(".spl/trash/{name}");
            self.findings.add((Severity::Pending, 25), place, "what was deleted", found, cure);
        }
        for id in wanted.into_keys() {
            let path = self.snapshot.node(id)?.and_then(|(_, path)| path).unwrap_or_default();
            self.findings.add(
                (Severity::Damage, 26),
                format!(".spl/trash/{id}"),
                format!("what was deleted as {}", path.display()),
                "nothing",
                "look for it in .spl/found and in a backup, and put it back before spoolfs is \
                 started: what was never archived is forgotten then",
            );
        }
        Ok(())
    }

    fn private(&mut self) -> Result<()> {
        for (name, stat) in self.lower.private(Room::Gone)? {
            let id = name.split('-').next().and_then(|id| id.parse().ok()).map(NodeId);
            let state = match id {
                Some(id) => self.snapshot.node(id)?.map(|(state, _)| state),
                None => None,
            };
            // Of one that was deleted since the objects stay, and a copy of them is spare too.
            let released = matches!(state, Some(State::Released | State::Deleted));
            let spare = released && is_as_released(&name, &stat) && stat.node == id;
            let (severity, cure) = match spare {
                true => (Severity::Pending, "repair it, or start spoolfs: it is removed"),
                false => (
                    Severity::Wrong,
                    "compare it with the recording in the tree, and keep what is newer; the next \
                     start moves it to .spl/found",
                ),
            };
            let state = state.map_or("unknown", State::word);
            self.findings.add(
                (severity, 20),
                format!(".spl/gone/{name}"),
                "nothing",
                format!("a copy of {} bytes; its recording is {state}", stat.attr.size),
                cure,
            );
            self.findings.repairable(spare.then_some(Cure::Leftovers));
        }
        for (name, _) in self.lower.private(Room::Stage)? {
            self.findings.add(
                (Severity::Pending, 21),
                format!(".spl/stage/{name}"),
                "nothing",
                "what a recall that was cut off had fetched",
                "repair it, or start spoolfs: it is removed",
            );
            self.findings.repairable(Some(Cure::Leftovers));
        }
        self.partials()?;
        for (name, stat) in self.lower.private(Room::Kept)? {
            if name.ends_with(".log") {
                continue;
            }
            self.findings.add(
                (Severity::Pending, 27),
                format!(".spl/kept/{name}"),
                "nothing",
                format!("{} bytes that a held recording was before", stat.attr.size),
                "start spoolfs: it is completed and taken into the trash",
            );
        }
        for (name, stat) in self.lower.private(Room::Open)? {
            self.findings.add(
                (Severity::Pending, 22),
                format!(".spl/open/{name}"),
                "nothing",
                format!("a deleted file of {} bytes that was open", stat.attr.size),
                "start spoolfs: it is removed",
            );
        }
        self.trash()?;
        for (name, stat) in self.lower.private(Room::Found)? {
            self.findings.add(
                (Severity::Note, 23),
                format!(".spl/found/{name}"),
                "nothing",
                format!("{} bytes that nobody expected", stat.attr.size),
                "compare it with the recording of that number; remove it when it is not needed",
            );
        }
        Ok(())
    }
}
