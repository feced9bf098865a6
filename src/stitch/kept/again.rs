//! What targets are found to have, where that was lost here.

use super::rows::{self, Sql, ask, many};
use super::{Kept, KeptJoin, KeptLeg, KeptObject, KeptState, NewJoin};
use crate::catalog::ObjectState;
use crate::recording::NodeId;
use crate::stitch::Result;
use rusqlite::Connection;

impl Kept {
    /// Takes note of a join that a target was found to have: of its recordings is known which they
    /// are and no more. A younger one of the same call counts in its place, or one that has all of its
    /// recordings: two calls became one then.
    ///
    /// # Errors
    /// It can not be used.
    pub fn found(&self, new: &NewJoin, nodes: &[NodeId], object: &KeptObject) -> Result<()> {
        self.change(|connection| {
            rows::forget_unread(connection, object)?;
            let id = match rows::same(connection, &new.call, new.sha256)? {
                Some(id) => id,
                None => rows::insert(connection, new, &unknown(nodes))?,
            };
            if rows::only_damaged(connection, id)? {
                rows::tell(connection, id, new)?;
            }
            let object = KeptObject { state: ObjectState::Verified, ..object.clone() };
            rows::take_key(connection, id, &object)?;
            rows::set_state(connection, id, KeptState::Current)?;
            let mut all = many(connection, ask::BESIDE, [id])?;
            all.extend(many(connection, ask::BY_ID, [id])?);
            all.retain(|join| join.state == KeptState::Current);
            let age = |join: &KeptJoin| (join.attr.mtime, join.legs.len(), join.size, join.id);
            for join in &all {
                let has_all = |other: &KeptJoin| {
                    let has = |leg: &KeptLeg| other.legs.iter().any(|l| l.node == leg.node);
                    join.legs.iter().all(has)
                };
                let instead = |other: &KeptJoin| {
                    age(other) > age(join) && (other.call == join.call || has_all(other))
                };
                if all.iter().any(instead) {
                    rows::set_state(connection, join.id, KeptState::Old)?;
                }
            }
            Ok(())
        })
    }

    /// Takes note of an object that says that it is this join and is damaged: it is deleted with the
    /// join. `new` has no chunks, and a plan that nothing can be read by.
    ///
    /// # Errors
    /// It can not be used.
    pub fn found_damaged(
        &self,
        new: &NewJoin,
        nodes: &[NodeId],
        object: &KeptObject,
    ) -> Result<()> {
        self.change(|connection| {
            rows::forget_unread(connection, object)?;
            note_damaged(connection, new, nodes, object)
        })
    }

    /// The same of one that its target does not give now: it is deleted with the join too, but asked
    /// for again, as if it were not known.
    ///
    /// # Errors
    /// It can not be used.
    pub fn found_unread(&self, new: &NewJoin, nodes: &[NodeId], object: &KeptObject) -> Result<()> {
        self.change(|connection| {
            note_damaged(connection, new, nodes, object)?;
            let text = "INSERT OR IGNORE INTO unread VALUES(?1, ?2)";
            connection.prepare_cached(text)?.execute([&object.target, &object.key]).map(drop)
        })
    }

    /// Whether a target was asked which joins it has.
    ///
    /// # Errors
    /// It can not be used.
    pub fn is_listed(&self, target: &str) -> Result<bool> {
        if self.asked.lock().contains(target) {
            return Ok(true);
        }
        let text = "SELECT 1 FROM listed WHERE target = ?1";
        self.with(|connection| connection.prepare_cached(text)?.exists([target]))
    }

    /// It was, and did not tell of all: the next daemon asks it again.
    pub fn was_asked(&self, target: &str) {
        self.asked.lock().insert(target.to_owned());
    }

    /// It was, and told of all.
    ///
    /// # Errors
    /// It can not be used.
    pub fn was_listed(&self, target: &str) -> Result<()> {
        let text = "INSERT OR IGNORE INTO listed VALUES(?1)";
        self.change(|connection| connection.prepare_cached(text)?.execute([target])).map(drop)
    }

    /// Whether a key of a target is known, and what it has there.
    ///
    /// # Errors
    /// It can not be used.
    pub fn knows(&self, target: &str, key: &str) -> Result<bool> {
        let text = "SELECT 1 FROM object WHERE target = ?1 AND key = ?2
            EXCEPT SELECT 1 FROM unread WHERE target = ?1 AND key = ?2";
        self.with(|connection| connection.prepare_cached(text)?.exists([target, key]))
    }
}

fn note_damaged(
    connection: &Connection,
    new: &NewJoin,
    nodes: &[NodeId],
    object: &KeptObject,
) -> Sql<()> {
    let id = match rows::same(connection, &new.call, new.sha256)? {
        Some(id) => id,
        None => rows::insert(connection, new, &unknown(nodes))?,
    };
    let object = KeptObject { state: ObjectState::Abandoned, ..object.clone() };
    rows::take_key(connection, id, &object).map(drop)
}

/// Recordings of which no more is known than which they are.
fn unknown(nodes: &[NodeId]) -> Vec<KeptLeg> {
    let leg = |node: &NodeId| KeptLeg { node: *node, content: None, erased: false };
    nodes.iter().map(leg).collect()
}
