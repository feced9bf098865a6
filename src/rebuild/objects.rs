//! What the targets hold, against what the journals say: objects that are gone or were changed,
//! and objects that no journal tells of.

use super::error::Result;
use super::history::{Content, History, Object};
use super::read::{Source, each};
use crate::catalog::ObjectState;
use crate::limits;
use crate::recording::{ChunkHashes, NodeId, Sha256};
use crate::store::meta::Label;
use crate::store::{hidden, key};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Objects that are not as the journals say.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Told of, and not there: target and key.
    pub gone: HashSet<(String, String)>,
    /// There with another length: target and key.
    pub changed: HashSet<(String, String)>,
    /// Nothing tells what they are: address and reason.
    pub unknown: Vec<(String, String)>,
    /// How many objects were listed.
    pub listed: usize,
    /// Names of the targets that were read.
    pub read: HashSet<String>,
}

/// An object that no journal tells of.
struct Untold {
    source: Source,
    key: String,
    label: std::result::Result<Label, String>,
    /// The path that it was archived with, where its name is hidden.
    path: Option<PathBuf>,
    /// The target computed this digest itself.
    sha256: Option<Sha256>,
    size: u64,
}

impl Findings {
    /// Whether an object is there as told: it was seen.
    pub fn is_there(&self, object: &(String, String)) -> bool {
        self.is_read(object) && !self.gone.contains(object) && !self.changed.contains(object)
    }

    /// Whether anything is known of it but what was told.
    pub fn is_read(&self, object: &(String, String)) -> bool {
        self.read.contains(&object.0)
    }
}

/// Compares, and gives recordings the objects that no journal tells of. `local` says whether a
/// recording is below.
pub(super) async fn compare(
    sources: &[Source],
    node: &str,
    history: &mut History,
    local: &dyn Fn(NodeId) -> Result<bool>,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Findings> {
    let mut findings = Findings::default();
    for source in sources {
        let (mut listed, kept) = (0, &mut history.kept);
        let list = source.recordings(node, |object| {
            listed += 1;
            kept.list(source.name(), &object.key, object.size)
        });
        list.await?;
        progress(&format!("target {:?}: {listed} objects", source.name()));
        findings.listed += listed;
        findings.read.insert(source.name().to_owned());
        told(source, history, &mut findings).await?;
    }
    let untold = history.kept.untold()?;
    if !untold.is_empty() {
        progress(&format!("{} objects that no journal tells of are looked at", untold.len()));
    }
    let named = |name: &str| sources.iter().find(|source| source.name() == name).cloned();
    let untold = untold.into_iter().filter_map(|(target, key)| Some((named(&target)?, key)));
    let mut answers = each(untold.collect(), look).await?;
    // Oldest first, so that the newest content of a recording comes out as the current one.
    answers.sort_by_key(|u| u.label.as_ref().ok().map(|l| (l.id, l.generation, l.mtime)));
    for object in answers {
        place(object, node, history, local, &mut findings).await?;
    }
    Ok(findings)
}

/// Looks after the objects that journals tell of. Only what the list lacks is asked for again:
/// some services list late.
async fn told(source: &Source, history: &mut History, findings: &mut Findings) -> Result<()> {
    let mut ask = Vec::new();
    let mut after = NodeId(0);
    loop {
        let ids = history.kept.ids_after(after)?;
        let Some(last) = ids.last() else { break };
        after = *last;
        for id in ids {
            for (key, size) in told_of(id, source.name(), history)? {
                match history.kept.listed(source.name(), &key)? {
                    Some(listed) if listed == size => {}
                    Some(_) => drop(findings.changed.insert((source.name().to_owned(), key))),
                    None => ask.push((source.clone(), key, size)),
                }
            }
        }
        if ask.len() >= limits::REBUILD_BATCH {
            ask_again(std::mem::take(&mut ask), findings).await?;
        }
    }
    ask_again(ask, findings).await
}

/// Key and length of each object that a target should have of a recording.
fn told_of(id: NodeId, target: &str, history: &mut History) -> Result<Vec<(String, u64)>> {
    let Some(one) = history.kept.get(id)? else { return Ok(Vec::new()) };
    let objects = one.contents.values().flat_map(|content| &content.objects);
    let there = objects
        .filter(|((name, _), object)| name == target && object.state == ObjectState::Verified);
    Ok(there.map(|((_, key), object)| (key.clone(), object.stored.size)).collect())
}

async fn ask_again(ask: Vec<(Source, String, u64)>, findings: &mut Findings) -> Result<()> {
    let answers = each(ask, |(source, key, size)| async move {
        let head = source.head(&key).await?;
        Ok(((source.name().to_owned(), key), head.map(|h| h.size == size)))
    });
    for (object, answer) in answers.await? {
        match answer {
            Some(true) => {}
            Some(false) => drop(findings.changed.insert(object)),
            None => drop(findings.gone.insert(object)),
        }
    }
    Ok(())
}

async fn look((source, key): (Source, String)) -> Result<Untold> {
    let head = source.head(&key).await?;
    let gone = Err("it was listed and is gone".to_owned());
    let mut path = None;
    let (mut label, sha256, size) = match &head {
        None => (gone, None, 0),
        Some(head) => {
            let user = hidden::revealed(&head.user, &source.names);
            path = user.as_ref().ok().and_then(|user| hidden::path(user));
            let label = user.and_then(|user| Label::from_user(&user));
            (label.map_err(|e| e.to_string()), head.sha256, head.size)
        }
    };
    if let Ok(known) = &mut label
        && size == known.stored.size
        && let Err(reason) = source.look_into(&key, &mut known.stored).await?
    {
        label = Err(reason);
    }
    Ok(Untold { source, key, label, path, sha256, size })
}

/// Finds the recording that an object belongs to.
async fn place(
    object: Untold,
    node: &str,
    history: &mut History,
    local: &dyn Fn(NodeId) -> Result<bool>,
    findings: &mut Findings,
) -> Result<()> {
    let source = &object.source;
    let url = source.store.url(&object.key);
    let label = match object.label {
        Ok(label) if key::node_component(&label.node) == key::node_component(node) => label,
        Ok(label) => {
            let reason = format!("its metadata says node {:?}", label.node);
            findings.unknown.push((url, reason));
            return Ok(());
        }
        Err(reason) => {
            findings.unknown.push((url, reason));
            return Ok(());
        }
    };
    let id = label.id;
    let name = (source.name().to_owned(), object.key.clone());
    let is_local = local(id)?;
    let one = history.kept.entry(id)?;
    let same = one.contents.iter().find(|(_, c)| c.sha256 == label.sha256).map(|(n, _)| *n);
    let current = one.current().map(|(number, content)| (number, content.mtime));
    let newer = current.is_none_or(|(number, mtime)| {
        label.generation.0 > number || (label.generation.0 == number && label.mtime > mtime)
    });
    let stored = label.stored.clone();
    let whole = object.size == stored.size;
    let buried = one.deleted.is_some();
    let mut proved = whole && object.sha256 == Some(stored.sha256);
    let number = match (same, current) {
        (Some(number), _) => number,
        // Its key is kept from being used again; the bytes are nobody's.
        (None, Some((number, _))) if !newer || !whole || (is_local && !proved) => {
            let state = ObjectState::Abandoned;
            return history.add_object(id, number, name, Object { state, stored });
        }
        _ if !whole => {
            let reason = format!("{} bytes, its metadata says {}", object.size, stored.size);
            findings.unknown.push((url, reason));
            return Ok(());
        }
        _ => {
            let number = one.number_for(label.generation.0, label.sha256);
            let mut chunks = ChunkHashes::default();
            if !is_local && !buried {
                let read = source.read_back(&object.key, &stored, label.sha256).await?;
                match read {
                    Ok(read) => (chunks, proved) = (read, true),
                    Err(reason) => {
                        findings.unknown.push((url, reason));
                        return Ok(());
                    }
                }
            }
            let content = Content {
                sha256: label.sha256,
                chunks,
                size: label.size,
                mtime: label.mtime,
                archived_at: None,
                objects: BTreeMap::new(),
            };
            let one = history.kept.entry(id)?;
            one.contents.insert(number, content);
            one.heard = one.heard.max(label.mtime);
            if one.names.is_empty() && !buried {
                let path = object.path.map(|path| path.into_os_string().into_vec());
                let path = path.unwrap_or_else(|| {
                    let base = format!("{}{}/", source.store.prefix(), key::node_component(node));
                    let rest = object.key.strip_prefix(&base).unwrap_or(&object.key);
                    let path = path_of(rest, label.generation.0);
                    let suffix = key::suffix(&stored.encoding);
                    let plain = path.strip_suffix(suffix.as_bytes()).map(<[u8]>::to_vec);
                    plain.filter(|plain| !plain.is_empty()).unwrap_or(path)
                });
                name_it(history, id, path)?;
            }
            number
        }
    };
    let content = history.kept.get(id)?.and_then(|r| r.contents.get(&number));
    let rival = content.is_some_and(|c| {
        c.objects.iter().any(|((t, _), o)| *t == name.0 && o.state != ObjectState::Abandoned)
    });
    let state = match (rival, proved) {
        (true, _) => ObjectState::Abandoned,
        (false, true) => ObjectState::Verified,
        (false, false) => ObjectState::Assigned,
    };
    history.add_object(id, number, name.clone(), Object { state, stored })?;
    // It is of this content, and was seen: if another counts, it was to leave.
    if whole { history.kept.list(&name.0, &name.1, object.size) } else { Ok(()) }
}

/// The name that a recording had when its key was made, unless a row told of it, but not what it was.
fn name_it(history: &mut History, id: NodeId, made_of: Vec<u8>) -> Result<()> {
    let known = history.kept.get(id)?.map(|r| r.last_path.clone()).unwrap_or_default();
    let path = if known.is_empty() { made_of } else { known };
    if let Some(one) = history.kept.get_mut(id)? {
        one.last_path.clone_from(&path);
    }
    if history.is_taken(&path)? { Ok(()) } else { history.claim(id, &path) }
}

/// From what follows the node in a key to the path that it was made from, without what told it
/// apart from others.
fn path_of(key: &str, generation: u32) -> Vec<u8> {
    let mark = format!("~{generation}-");
    let tag = |text: &str| -> Option<usize> {
        let at = text.rfind(&mark)?;
        let digits = text.get(at + mark.len()..at + mark.len() + 8)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(at)
    };
    let len = mark.len() + 8;
    let mut parts: Vec<String> = key.split('/').map(str::to_owned).collect();
    if parts.len() > 1 && parts.first().is_some_and(|p| p.len() == len && tag(p) == Some(0)) {
        parts.remove(0);
    }
    if let Some(name) = parts.last_mut()
        && let Some(at) = tag(name)
        && matches!(name.as_bytes().get(at + len), None | Some(b'.'))
        && at > 0
    {
        name.replace_range(at..at + len, "");
    }
    let decoded = parts.iter().map(|p| key::decode(p).unwrap_or_else(|| p.clone().into_bytes()));
    let path: PathBuf = decoded.map(OsString::from_vec).collect();
    path.into_os_string().into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_the_path_it_was_made_from() {
        for (key, path) in [
            ("2024/a.wav", "2024/a.wav"),
            ("2024/a~2-deadbeef.wav", "2024/a.wav"),
            ("2024/a~3-deadbeef.wav", "2024/a~3-deadbeef.wav"),
            ("~2-deadbeef/2024/a.wav", "2024/a.wav"),
            ("a~2-dead.wav", "a~2-dead.wav"),
            ("a%25~2-00000007", "a%"),
        ] {
            assert_eq!(String::from_utf8(path_of(key, 2)).unwrap(), path, "{key}");
        }
    }
}
