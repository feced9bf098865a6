//! The engine's compare-and-set transactions on recordings.

use super::Catalog;
use super::apply::{self, Node};
use super::error::Result;
use super::row::{Digest, HashOutcome};
use super::sql_row::{self, Stored, path_of, sql};
use super::trash;
use super::tx::Tx;
use crate::clock::Timestamp;
use crate::recording::{Attr, Generation, Kind, LowerVersion, NodeId, ReleasePermit, State};
use rusqlite::{Connection, params};

impl Catalog {
    /// Stores a hash, if the node is still closed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn hashed(&self, id: NodeId, digest: Digest) -> Result<HashOutcome> {
        self.shared.write(false, move |tx| hashed(tx, id, &digest))
    }

    /// Compare-and-set: closed to archived, if generation and hashed version are still these and
    /// every target in `required` has a verified object of it. Tells whether it was done. With no
    /// target required nothing is ever archived.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn archived(
        &self,
        id: NodeId,
        generation: Generation,
        version: LowerVersion,
        required: &[String],
        at: Timestamp,
    ) -> Result<bool> {
        let required = required.to_vec();
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            let current = row.state == State::Closed
                && row.generation == generation
                && row.sha256.is_some()
                && row.hashed == Some(version);
            if !current || required.is_empty() || !all_verified(tx.conn, id, generation, &required)?
            {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.state = State::Archived;
            new.row.archived_at = Some(at);
            tx.save(Some(&old), &new)?;
            tx.clear_trouble(id)?;
            tx.tell_archived(&new, "archived", at)?;
            // Its name is gone, which a rebuild that has not heard of it before shall know.
            if let Some(deleted) = trash::since(tx.conn, id)? {
                let path = path_of(tx.conn, id)?.unwrap_or_default();
                tx.tell_deleted(id, &path, generation, true, deleted)?;
            }
            Ok(true)
        })
    }

    /// Compare-and-set: archived to released, by permit; committed and synced before it returns.
    /// `attr` and `xattrs` are what the local file showed last. One that is released already (a
    /// spare copy turned up) stays as it is, and the answer is yes.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn released(
        &self,
        permit: &ReleasePermit,
        attr: Attr,
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<bool> {
        let (id, version) = (permit.node(), permit.version());
        let required = permit.required().to_vec();
        self.shared.write(true, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            if row.hashed != Some(version) || row.sha256.is_none() {
                return Ok(false);
            }
            if row.state != State::Archived {
                return Ok(row.state == State::Released);
            }
            if row.suspect.is_some() {
                return Ok(false);
            }
            // The scrub may have found one bad since the permit was given.
            if !all_verified(tx.conn, id, row.generation, &required)? {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.state = State::Released;
            new.row.attr = attr.clone();
            new.row.xattrs = xattrs.clone();
            tx.save(Some(&old), &new)?;
            tx.clear_trouble(id)?;
            tx.tell_looks(&old, &new, tx.now)?;
            Ok(true)
        })
    }

    /// The local copy is there (again): released to archived, with the new stamp. Also undoes
    /// `released` when the local bytes could not be removed.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn local_again(&self, id: NodeId, version: LowerVersion, at: Timestamp) -> Result<bool> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            if old.node.row.state != State::Released {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.state = State::Archived;
            new.row.hashed = Some(version);
            new.row.recalled_at = Some(at);
            new.seen = Some(version.ctime);
            tx.save(Some(&old), &new)?;
            Ok(true)
        })
    }

    /// Files that were brought in from elsewhere: they count as adopted from now on.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn count_as_adopted(&self, ids: &[NodeId]) -> Result<()> {
        let ids = ids.to_vec();
        self.shared.write(false, move |tx| {
            for id in &ids {
                let Some(old) = tx.node(*id)? else { continue };
                if old.node.row.adopted || old.node.row.attr.kind != Kind::File {
                    continue;
                }
                let mut new = old.node.clone();
                new.row.adopted = true;
                tx.save(Some(&old), &new)?;
            }
            Ok(())
        })
    }

    /// The disk was proved to hold the version that was hashed: it is no longer suspect, unless
    /// syncing it failed again after `since` or it changed. Tells whether it was done.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn proved(&self, id: NodeId, version: LowerVersion, since: Timestamp) -> Result<bool> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(false) };
            let row = &old.node.row;
            if row.suspect != Some(since) || row.hashed != Some(version) {
                return Ok(false);
            }
            let mut new = old.node.clone();
            new.row.suspect = None;
            tx.save(Some(&old), &new)?;
            tx.clear_trouble(id)?;
            Ok(true)
        })
    }

    /// Makes everything committed so far survive a power cut.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn sync(&self) -> Result<()> {
        self.shared.write(true, |_| Ok(()))
    }

    /// Whether a change would be kept now.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn check_writable(&self) -> Result<()> {
        self.shared.write(false, |_| Ok(()))
    }

    /// The node exists below with this stamp (reconcile): adopts a change made behind the mount.
    /// The stamp is the hashed one: it is what it was, and archived if it was released. Else:
    /// closed, to be hashed; if it was released, it counts as recalled now. One in state
    /// `recording` is left to its close.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn changed_below(&self, id: NodeId, attr: Attr, version: LowerVersion) -> Result<()> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(()) };
            if old.node.row.state == State::Deleted {
                return Ok(());
            }
            let mut new = apply::found(old.node.clone(), &attr, version);
            // Not the file that was released: a recall brought it, and a crash cut off the word.
            let spare = old.node.row.hashed.is_some_and(|hashed| hashed == version);
            if old.node.row.state == State::Released && !spare {
                new.row.recalled_at = Some(tx.now);
            }
            tx.save(Some(&old), &new)?;
            tx.tell_looks(&old, &new, tx.now)
        })
    }

    /// The node is gone below: archived becomes released (also one that waits to be hashed again),
    /// released stays so, anything else is forgotten (with objects: a tombstone). A directory with
    /// names in it stays.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn missing_below(&self, id: NodeId) -> Result<()> {
        self.shared.write(false, move |tx| {
            let Some(old) = tx.node(id)? else { return Ok(()) };
            match old.node.row.state {
                _ if id == NodeId::ROOT => Ok(()),
                State::Released | State::Deleted => Ok(()),
                State::Archived => {
                    let mut new = old.node.clone();
                    new.row.state = State::Released;
                    new.row.suspect = None;
                    tx.save(Some(&old), &new)
                }
                // What was archived last is all there is of it now.
                _ if old.node.row.archived_at.is_some() => back_to_archived(tx, &old),
                _ if old.node.row.attr.kind == Kind::Dir && has_names(tx.conn, id)? => Ok(()),
                _ => tx.lose(id, path_of(tx.conn, id)?),
            }
        })
    }
}

/// Releases a node whose local file went missing while it was not known whether it was still what
/// had been archived.
fn back_to_archived(tx: &Tx<'_>, old: &Stored) -> rusqlite::Result<()> {
    let mut new = old.node.clone();
    let (size, mtime) = tx
        .conn
        .prepare_cached("SELECT size, mtime FROM generation WHERE node = ?1 AND generation = ?2")?
        .query_row(params![sql(new.row.id.0), new.row.generation.0], |r| {
            Ok((sql_row::unsigned(r.get(0)?), sql_row::time(r, 1)?))
        })?;
    new.row.state = State::Released;
    new.row.suspect = None;
    new.row.attr.size = size;
    new.row.attr.mtime = mtime;
    // A stamp that no file has: whatever turns up below is hashed.
    new.row.hashed = Some(LowerVersion { ino: 0, size, mtime, ctime: mtime });
    tx.save(Some(old), &new)?;
    tx.clear_trouble(new.row.id)
}

fn hashed(tx: &Tx<'_>, id: NodeId, digest: &Digest) -> rusqlite::Result<HashOutcome> {
    let Some(old) = tx.node(id)? else { return Ok(HashOutcome::Stale) };
    let row = &old.node.row;
    // It was opened and closed again after the hash was taken: ctime only goes forward.
    let newer = old.node.seen.is_some_and(|seen| seen > digest.version.ctime);
    if row.state != State::Closed || row.attr.kind != Kind::File || newer {
        return Ok(HashOutcome::Stale);
    }
    let mut new = old.node.clone();
    new.row.hashed = Some(digest.version);
    new.row.attr = digest.attr.clone();
    new.seen = Some(digest.version.ctime);
    let outcome = if row.sha256 == Some(digest.sha256) && row.generation.0 > 0 {
        if row.archived_at.is_some() {
            new.row.state = State::Archived;
        }
        same_again(tx, &old, &new, digest)?;
        HashOutcome::Same(row.generation)
    } else {
        let generation = Generation(row.generation.0.saturating_add(1));
        new.row.generation = generation;
        new.row.sha256 = Some(digest.sha256);
        new.row.archived_at = None;
        new.row.recalled_at = None;
        store_generation(tx, &new, digest)?;
        HashOutcome::New(generation)
    };
    tx.save(Some(&old), &new)?;
    tx.clear_trouble(id)?;
    Ok(outcome)
}

/// A rebuilt catalog may have the hash of the whole only, from the object; and a file that was
/// written to without becoming another has an mtime that nobody was told of.
fn same_again(tx: &Tx<'_>, old: &Stored, new: &Node, digest: &Digest) -> rusqlite::Result<()> {
    let (id, generation) = (sql(new.row.id.0), new.row.generation.0);
    tx.conn
        .prepare_cached(
            "UPDATE generation SET chunks = ?3
             WHERE node = ?1 AND generation = ?2 AND length(chunks) = 0",
        )?
        .execute(params![id, generation, digest.chunks.to_bytes()])?;
    let mtime = tx
        .conn
        .prepare_cached("SELECT mtime FROM generation WHERE node = ?1 AND generation = ?2")?
        .query_row(params![id, generation], |r| sql_row::time(r, 0))?;
    let touched = old.told && new.row.archived_at.is_some() && mtime != digest.version.mtime;
    if touched { tx.tell_attributes(new, tx.now) } else { tx.tell_looks(old, new, tx.now) }
}

fn store_generation(tx: &Tx<'_>, node: &Node, digest: &Digest) -> rusqlite::Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO generation(node, generation, size, mtime, sha256, chunks)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            sql(node.row.id.0),
            node.row.generation.0,
            sql(digest.version.size),
            digest.version.mtime.0,
            digest.sha256.0.to_vec(),
            digest.chunks.to_bytes(),
        ])?;
    Ok(())
}

/// Whether every one of these targets holds a generation, verified.
pub(super) fn all_verified(
    conn: &Connection,
    id: NodeId,
    generation: Generation,
    required: &[String],
) -> rusqlite::Result<bool> {
    let mut statement = conn.prepare_cached(
        "SELECT 1 FROM object WHERE node = ?1 AND generation = ?2 AND target = ?3 AND state = 2",
    )?;
    for target in required {
        if !statement.exists(params![sql(id.0), generation.0, target])? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn has_names(conn: &Connection, dir: NodeId) -> rusqlite::Result<bool> {
    conn.prepare_cached("SELECT 1 FROM entry WHERE parent = ?1 LIMIT 1")?.exists([sql(dir.0)])
}
