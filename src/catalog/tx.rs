//! One write transaction: nodes, names, and the effects of logged operations.

use super::apply::{self, Node};
use super::engine::has_names;
use super::log::Effect;
use super::op::{Fate, Name, Op, beside};
use super::sql_row::{self, Paths, Stored, kind_code, pairs_text, sql};
use crate::clock::Timestamp;
use crate::recording::{Kind, NodeId, State};
use rusqlite::{Connection, OptionalExtension, params};
use std::cell::{Cell, RefCell};

/// A write transaction under way.
pub(super) struct Tx<'a> {
    pub conn: &'a Connection,
    /// When it happens.
    pub now: Timestamp,
    /// The last effect applied.
    pub committed: Cell<u64>,
    /// The last change between local and released.
    pub tier: Cell<u64>,
    /// The last journal row.
    pub journal: Cell<u64>,
    /// The engine has something to do after the commit.
    pub wake: Cell<bool>,
    /// Archived nodes that are changed.
    pub changed: RefCell<Vec<NodeId>>,
}

/// A node before and after an operation, and where it was.
pub(super) struct Change {
    pub id: NodeId,
    pub old: Option<Stored>,
    pub new: Option<Node>,
    /// Path of its first name before.
    pub path: Option<Vec<u8>>,
}

impl<'a> Tx<'a> {
    pub(super) fn begin(conn: &'a Connection, now: Timestamp) -> rusqlite::Result<Tx<'a>> {
        let mut statement = conn.prepare_cached("SELECT committed, tier, journal FROM position")?;
        let number = |r: &rusqlite::Row<'_>, at| r.get(at).map(sql_row::unsigned).map(Cell::new);
        statement.query_row([], |r| {
            let (committed, tier, journal) = (number(r, 0)?, number(r, 1)?, number(r, 2)?);
            let (wake, changed) = (Cell::new(false), RefCell::default());
            Ok(Tx { conn, now, committed, tier, journal, wake, changed })
        })
    }

    pub(super) fn finish(&self) -> rusqlite::Result<()> {
        let mut statement = self
            .conn
            .prepare_cached("UPDATE position SET committed = ?1, tier = ?2, journal = ?3")?;
        statement.execute([&self.committed, &self.tier, &self.journal].map(|c| sql(c.get())))?;
        Ok(())
    }

    pub(super) fn node(&self, id: NodeId) -> rusqlite::Result<Option<Stored>> {
        sql_row::load(self.conn, id)
    }

    /// Stores a node, changed or new.
    pub(super) fn save(&self, old: Option<&Stored>, new: &Node) -> rusqlite::Result<()> {
        if old.is_some_and(|o| o.node == *new) {
            return Ok(());
        }
        self.upsert(new)?;
        if new.objects || old.is_some_and(|o| o.node.objects) {
            self.changed.borrow_mut().push(new.row.id);
        }
        let before = old.map(|o| o.node.row.state);
        let state = new.row.state;
        if before != Some(state) || state == State::Closed || new.row.suspect.is_some() {
            self.wake.set(true);
        }
        let released = state == State::Released;
        if released != (before == Some(State::Released)) {
            self.move_tier(new.row.id, released)?;
        }
        Ok(())
    }

    fn upsert(&self, node: &Node) -> rusqlite::Result<()> {
        let (row, attr) = (&node.row, &node.row.attr);
        let time = |t: Option<Timestamp>| t.map(|t| t.0);
        let local_since = row.archived_at.map(|a| a.max(row.recalled_at.unwrap_or(a)));
        let stamp = row.hashed;
        self.conn
            .prepare_cached(
                "INSERT INTO node(id, kind, state, generation, mode, uid, gid, size, mtime, atime,
                    ctime, nlink, rdev, blocks, sha256, h_ino, h_size, h_mtime, h_ctime, seen,
                    closed_at, archived_at, recalled_at, local_since, adopted, objects, xattrs, suspect)
                 VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,
                    ?21,?22,?23,?24,?25,?26,?27,?28)
                 ON CONFLICT(id) DO UPDATE SET kind=?2, state=?3, generation=?4, mode=?5, uid=?6,
                    gid=?7, size=?8, mtime=?9, atime=?10, ctime=?11, nlink=?12, rdev=?13,
                    blocks=?14, sha256=?15, h_ino=?16, h_size=?17, h_mtime=?18, h_ctime=?19,
                    seen=?20, closed_at=?21, archived_at=?22, recalled_at=?23, local_since=?24,
                    adopted=?25, objects=?26, xattrs=?27, suspect=?28",
            )?
            .execute(params![
                sql(row.id.0),
                kind_code(attr.kind),
                row.state.code(),
                row.generation.0,
                attr.mode,
                attr.uid,
                attr.gid,
                sql(attr.size),
                attr.mtime.0,
                attr.atime.0,
                attr.ctime.0,
                attr.nlink,
                attr.rdev,
                sql(attr.blocks),
                row.sha256.map(|s| s.0.to_vec()),
                stamp.map(|s| sql(s.ino)),
                stamp.map(|s| sql(s.size)),
                stamp.map(|s| s.mtime.0),
                stamp.map(|s| s.ctime.0),
                time(node.seen),
                time(row.closed_at),
                time(row.archived_at),
                time(row.recalled_at),
                time(local_since),
                row.adopted,
                node.objects,
                pairs_text(&row.xattrs),
                time(row.suspect),
            ])?;
        Ok(())
    }

    fn move_tier(&self, id: NodeId, released: bool) -> rusqlite::Result<()> {
        self.tier.set(self.tier.get().saturating_add(1));
        let tier = sql(self.tier.get());
        self.conn
            .prepare_cached("UPDATE node SET tier = ?2 WHERE id = ?1")?
            .execute([sql(id.0), tier])?;
        self.conn
            .prepare_cached("UPDATE entry SET released = ?2, tier = ?3 WHERE node = ?1")?
            .execute([sql(id.0), if released { 1 } else { 2 }, tier])?;
        Ok(())
    }

    /// Removes a node that no object keeps.
    pub(super) fn forget(&self, id: NodeId) -> rusqlite::Result<()> {
        self.changed.borrow_mut().push(id);
        for text in [
            "DELETE FROM entry WHERE node = ?1",
            "DELETE FROM generation WHERE node = ?1",
            "DELETE FROM node WHERE id = ?1",
        ] {
            self.conn.prepare_cached(text)?.execute([sql(id.0)])?;
        }
        Ok(())
    }

    /// Makes a node a tombstone.
    fn bury(&self, id: NodeId, path: Option<&[u8]>, at: Timestamp) -> rusqlite::Result<()> {
        self.conn.prepare_cached("DELETE FROM entry WHERE node = ?1")?.execute([sql(id.0)])?;
        self.conn
            .prepare_cached(
                "UPDATE node SET path = ?2, deleted_at = ?3, attempts = 0, not_before = NULL,
                    error = NULL, error_at = NULL WHERE id = ?1",
            )?
            .execute(params![sql(id.0), path.unwrap_or_default(), at.0])?;
        Ok(())
    }

    /// Stores what became of a node: changed, a tombstone, or gone.
    pub(super) fn settle(&self, change: &Change, at: Timestamp) -> rusqlite::Result<()> {
        let was_there = change.old.as_ref().is_some_and(|o| o.node.row.state != State::Deleted);
        match &change.new {
            Some(new) => {
                self.save(change.old.as_ref(), new)?;
                if new.row.state == State::Deleted && was_there {
                    self.bury(change.id, change.path.as_deref(), at)?;
                }
                Ok(())
            }
            None if change.old.is_some() => self.forget(change.id),
            None => Ok(()),
        }
    }

    // ---- effects of logged operations -----------------------------------------------------

    /// Applies one effect of the log.
    pub(super) fn effect(&self, effect: &Effect) -> rusqlite::Result<()> {
        let (op, seq) = (&effect.op, effect.seq);
        self.committed.set(seq.max(self.committed.get()));
        let mut changes = Vec::with_capacity(2);
        for id in apply::touched(op) {
            changes.push(self.change(op, id)?);
        }
        let at = op_time(op).unwrap_or(self.now);
        // A directory is journalled by where it was and where it is.
        for change in &changes {
            self.settle(change, at)?;
        }
        self.names(op, seq, &changes)?;
        self.trash_effect(op, &changes, at)?;
        if let Op::Suspect { id: NodeId::ROOT, at } = op {
            super::unsynced::suspect_all(self, *at)?;
        }
        self.tell(op, &changes, at)
    }

    fn change(&self, op: &Op, id: NodeId) -> rusqlite::Result<Change> {
        let old = self.node(id)?;
        let new = apply::apply(op, id, old.as_ref().map(|o| o.node.clone()));
        let known = old.as_ref().is_some_and(|o| o.told || o.node.objects);
        let dir = old.as_ref().is_some_and(|o| o.node.row.attr.kind == Kind::Dir);
        let path = match named(op, id) {
            Some((parent, name)) if known || dir || is_moved(op) => {
                Some(Paths::default().file(self.conn, parent, name)?)
            }
            None if known => sql_row::path_of(self.conn, id)?,
            _ => None,
        };
        Ok(Change { id, old, new, path })
    }

    fn names(&self, op: &Op, seq: u64, changes: &[Change]) -> rusqlite::Result<()> {
        let lives = |id: NodeId| {
            let change = changes.iter().find(|c| c.id == id);
            change.and_then(|c| c.new.as_ref()).is_some_and(|n| n.row.state != State::Deleted)
        };
        match op {
            Op::Create { id, parent, name, .. } | Op::Link { id, parent, name } if lives(*id) => {
                self.place(*id, *parent, name, seq)
            }
            Op::Restore { id, parent, name, .. } if lives(*id) => {
                self.place(*id, *parent, name, seq)
            }
            Op::Unlink { parent, name, id, .. } => self.remove_name(*parent, name, *id).map(|_| ()),
            Op::Rename { id, parent, name, new_parent, new_name, replaced, .. } => {
                if let Some((node, _)) = replaced {
                    self.remove_name(*new_parent, new_name, *node)?;
                }
                if lives(*id) {
                    self.move_name(*id, (*parent, name), (*new_parent, new_name), seq)
                } else {
                    self.remove_name(*parent, name, *id).map(|_| ())
                }
            }
            Op::Exchange { a, b, .. } => self.exchange(a, b),
            _ => Ok(()),
        }
    }

    /// Gives a node a name. Whoever has it by the catalog's knowledge lost it.
    fn place(&self, id: NodeId, parent: NodeId, name: &Name, seq: u64) -> rusqlite::Result<()> {
        if self.holder(parent, name)? == Some(id) {
            return Ok(());
        }
        self.evict(parent, name, id)?;
        self.conn
            .prepare_cached(
                "INSERT INTO entry(id, parent, name, stem, node, released, tier)
                 SELECT CASE WHEN EXISTS(SELECT 1 FROM entry e WHERE e.id = ?1) THEN NULL
                     ELSE ?1 END, ?2, ?3, ?4, id, CASE WHEN state = 4 THEN 1 WHEN tier > 0 THEN 2
                     ELSE 0 END, tier FROM node WHERE id = ?5",
            )?
            .execute(params![sql(seq), sql(parent.0), name, sql_row::stem_of(name).0, sql(id.0)])?;
        Ok(())
    }

    fn holder(&self, parent: NodeId, name: &Name) -> rusqlite::Result<Option<NodeId>> {
        self.conn
            .prepare_cached("SELECT node FROM entry WHERE parent = ?1 AND name = ?2")?
            .query_row(params![sql(parent.0), name], |r| r.get(0))
            .optional()
            .map(|id| id.map(|id| NodeId(sql_row::unsigned(id))))
    }

    fn remove_name(&self, parent: NodeId, name: &Name, id: NodeId) -> rusqlite::Result<bool> {
        self.conn
            .prepare_cached("DELETE FROM entry WHERE parent = ?1 AND name = ?2 AND node = ?3")?
            .execute(params![sql(parent.0), name, sql(id.0)])
            .map(|n| n > 0)
    }

    /// Takes the name from whoever has it, for `id`. One that has no other name left is gone: the
    /// lower directory has something else there. What is archived is in the trash; a directory with
    /// something in it is beside it.
    fn evict(&self, parent: NodeId, name: &Name, id: NodeId) -> rusqlite::Result<()> {
        let Some(holder) = self.holder(parent, name)? else { return Ok(()) };
        let path = Paths::default().file(self.conn, parent, name)?;
        if holder != id && has_names(self.conn, holder)? {
            let aside = beside(name, holder);
            let text = "UPDATE OR IGNORE entry SET name = ?3, stem = ?4
                 WHERE parent = ?1 AND name = ?2";
            let row = params![sql(parent.0), name, aside, sql_row::stem_of(&aside).0];
            if self.conn.prepare_cached(text)?.execute(row)? > 0 {
                return Ok(());
            }
        }
        self.remove_name(parent, name, holder)?;
        if holder == id || !sql_row::names_of(self.conn, holder, 1)?.is_empty() {
            return Ok(());
        }
        self.lose_to(holder, Some(path), Fate::Trash)
    }

    /// The node is gone, without an operation that says so.
    pub(super) fn lose(&self, id: NodeId, path: Option<Vec<u8>>) -> rusqlite::Result<()> {
        self.lose_to(id, path, Fate::Kept)
    }

    fn lose_to(&self, id: NodeId, path: Option<Vec<u8>>, fate: Fate) -> rusqlite::Result<()> {
        let Some(old) = self.node(id)? else { return Ok(()) };
        let parent = NodeId::ROOT;
        let op = Op::Unlink { parent, name: Vec::new(), id, last: true, fate, at: self.now };
        let new = apply::apply(&op, id, Some(old.node.clone()));
        let change = Change { id, old: Some(old), new, path };
        self.settle(&change, self.now)?;
        self.trash_effect(&op, std::slice::from_ref(&change), self.now)?;
        self.tell(&op, &[change], self.now)
    }

    fn move_name(
        &self,
        id: NodeId,
        from: (NodeId, &Name),
        to: (NodeId, &Name),
        seq: u64,
    ) -> rusqlite::Result<()> {
        if from == to {
            return Ok(());
        }
        self.evict(to.0, to.1, id)?;
        let moved = self
            .conn
            .prepare_cached(
                "UPDATE entry SET parent = ?4, name = ?5, stem = ?6
                 WHERE parent = ?1 AND name = ?2 AND node = ?3",
            )?
            .execute(params![
                sql(from.0.0),
                from.1,
                sql(id.0),
                sql(to.0.0),
                to.1,
                sql_row::stem_of(to.1).0
            ])?;
        if moved == 0 { self.place(id, to.0, to.1, seq) } else { Ok(()) }
    }

    fn exchange(
        &self,
        a: &(NodeId, NodeId, Name),
        b: &(NodeId, NodeId, Name),
    ) -> rusqlite::Result<()> {
        // No file can be called that.
        let aside: Name = b"/".to_vec();
        let steps = [
            (a.0, (a.1, &a.2), (a.1, &aside)),
            (b.0, (b.1, &b.2), (a.1, &a.2)),
            (a.0, (a.1, &aside), (b.1, &b.2)),
        ];
        for (id, from, to) in steps {
            self.conn
                .prepare_cached(
                    "UPDATE entry SET parent = ?4, name = ?5, stem = ?6
                     WHERE parent = ?1 AND name = ?2 AND node = ?3",
                )?
                .execute(params![
                    sql(from.0.0),
                    from.1,
                    sql(id.0),
                    sql(to.0.0),
                    to.1,
                    sql_row::stem_of(to.1).0
                ])?;
        }
        Ok(())
    }
}

/// Whether what lost its name is kept in the private directory.
fn is_moved(op: &Op) -> bool {
    matches!(op, Op::Unlink { fate: Fate::Moved, .. } | Op::Rename { fate: Fate::Moved, .. })
}

/// When the operation happened, if it says.
fn op_time(op: &Op) -> Option<Timestamp> {
    match op {
        Op::Closed { at, .. }
        | Op::Unlink { at, .. }
        | Op::Rename { at, .. }
        | Op::Restore { at, .. } => Some(*at),
        _ => None,
    }
}

/// The name by which the operation knows the node, before it.
fn named(op: &Op, id: NodeId) -> Option<(NodeId, &Name)> {
    match op {
        Op::Unlink { parent, name, .. } => Some((*parent, name)),
        Op::Rename { id: moved, parent, name, .. } if *moved == id => Some((*parent, name)),
        Op::Rename { new_parent, new_name, .. } => Some((*new_parent, new_name)),
        Op::Exchange { a, b, .. } => {
            let place = if a.0 == id { a } else { b };
            Some((place.1, &place.2))
        }
        _ => None,
    }
}
