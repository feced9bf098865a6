//! Tables of a database server, followed.
//!
//! Rows do not come in the order of what they are sorted by: a call record is sorted by when the call
//! began and written when it ended. So each look begins some way before the last row that was seen,
//! and now and then further back. What was given once is not given again while it stays the same.

use super::super::error::{CallsError, Result};
use super::super::fields::Row;
use super::super::time::Zone;
use super::presets::{self, Plan, Wanted};
use super::server::{Client, Server, Table};
use super::{BadRow, Batch, Event, Feed, Field, fields_of};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The largest that was seen.
    seen: i64,
    /// Where a look goes on that is not through.
    at: Option<i64>,
    /// Goes up, so that a batch that was thrown away is noticed.
    turn: u64,
}

/// A table or query of a server that is followed.
pub(super) struct ClientFeed {
    client: Client,
    wanted: Wanted,
    zone: Zone,
    plan: Option<Plan>,
    far_due: Option<Instant>,
    /// Rows that were given, by their position and a hash of all their columns.
    given: HashSet<(i64, u64)>,
    /// The position that was given with them.
    last: Option<String>,
}

impl ClientFeed {
    pub(super) fn new(
        server: &Server,
        wanted: &Wanted,
        zone: &Zone,
        timeout: Duration,
    ) -> ClientFeed {
        ClientFeed {
            client: Client::new(server, timeout),
            wanted: wanted.clone(),
            zone: zone.clone(),
            plan: None,
            far_due: None,
            given: HashSet::new(),
            last: None,
        }
    }

    /// What is asked, by what tables there are.
    fn plan(&mut self, until: Instant) -> std::result::Result<Plan, String> {
        if let Some(plan) = &self.plan {
            return Ok(plan.clone());
        }
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Some(query) = presets::columns(self.client.engine(), &self.wanted) {
            for row in self.client.rows(&query, until)?.1 {
                if let [table, column] = &row[..] {
                    tables.entry(table.clone()).or_default().push(column.clone());
                }
            }
        }
        let plan = presets::plan(self.client.engine(), &self.wanted, &tables)?;
        self.plan = Some(plan.clone());
        Ok(plan)
    }

    fn next(&mut self, mut position: Position) -> std::result::Result<Batch, String> {
        let until = self.client.until();
        let plan = self.plan(until)?;
        let now = Instant::now();
        let far = self.far_due.is_none_or(|due| due <= now);
        let back = if far { plan.far } else { plan.near };
        let after = position.at.unwrap_or_else(|| position.seen.saturating_sub(back).max(0));
        if position.at.is_none() && far {
            self.far_due = Some(now + limits::CALL_FAR_EVERY);
        }
        let limit = limits::CALL_BATCH_ROWS;
        let query = plan.query.replace("{after}", &after.to_string());
        let table = self.client.rows(&query.replace("{limit}", &limit.to_string()), until)?;
        let mut batch = Batch::default();
        let last = self.take(&plan, &table, after, &mut batch)?;
        position.seen = position.seen.max(last);
        batch.more = table.1.len() >= limit;
        position.at = batch.more.then_some(last);
        if batch.more && last == after {
            // Or the same ones would be read for ever.
            position.at = Some(after.saturating_add(1));
            let place = format!("{}, position {last}", self.client.place());
            let reason = format!("there are more than {limit} rows of this position");
            batch.bad.push(BadRow { place, reason });
        }
        self.forget(position.seen.saturating_sub(plan.far));
        position.turn += 1;
        batch.position = serde_json::to_string(&position).map_err(|e| e.to_string())?;
        self.last = Some(batch.position.clone());
        Ok(batch)
    }

    /// Takes the rows; the largest position of them.
    fn take(
        &mut self,
        plan: &Plan,
        (names, rows): &Table,
        after: i64,
        batch: &mut Batch,
    ) -> std::result::Result<i64, String> {
        let mut last = after;
        let Some(place) = names.iter().position(|name| name.eq_ignore_ascii_case("position"))
        else {
            // `mysql` prints no names where there are no rows.
            return if names.is_empty() {
                Ok(last)
            } else {
                Err("the query gives no column \"position\"".to_owned())
            };
        };
        let fields = fields_of(names.iter().map(String::as_str));
        for row in rows {
            let at = row.get(place).and_then(|p| p.split('.').next()?.parse::<i64>().ok());
            last = last.max(at.unwrap_or(last));
            let mut hash = DefaultHasher::new();
            row.hash(&mut hash);
            if !self.given.insert((at.unwrap_or(last), hash.finish())) {
                continue;
            }
            let read = match at {
                None => Err("its position is no whole number".to_owned()),
                Some(_) if row.len() != names.len() => {
                    Err(format!("{} columns, not {}", row.len(), names.len()))
                }
                Some(at) => self.row(names, &fields, row, plan.numbered.then_some(at), batch),
            };
            if let Err(reason) = read {
                let place = format!("{}, position {last}", self.client.place());
                batch.bad.push(BadRow { place, reason });
            }
        }
        Ok(last)
    }

    fn row(
        &self,
        names: &[String],
        fields: &[Field],
        row: &[String],
        number: Option<i64>,
        batch: &mut Batch,
    ) -> std::result::Result<(), String> {
        if self.wanted.events() {
            let mut event = Event::default();
            names.iter().zip(row).for_each(|(name, value)| event.set(name, value));
            batch.events.push(event.finish(&self.zone)?);
        } else {
            let mut record = Row::new(&self.zone);
            fields.iter().zip(row).for_each(|(field, value)| record.set(*field, value));
            let mut record = record.finish()?;
            record.number = number;
            batch.records.push(record);
        }
        Ok(())
    }

    /// Rows before this are not looked at again.
    fn forget(&mut self, before: i64) {
        if self.given.len() > limits::CALL_GIVEN_MAX {
            self.given.retain(|(at, _)| *at >= before);
        }
        if self.given.len() > limits::CALL_GIVEN_MAX {
            self.given.clear();
        }
    }
}

impl Feed for ClientFeed {
    fn key(&self) -> &'static str {
        if self.wanted.events() { "cel" } else { "cdr" }
    }

    fn place(&self) -> String {
        self.client.place()
    }

    fn read(&mut self, position: Option<&str>) -> Result<Batch> {
        if position != self.last.as_deref() {
            // The cache was made anew, or what was given last did not get into it.
            (self.given, self.far_due) = (HashSet::new(), None);
        }
        let position =
            position.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        self.next(position).map_err(|reason| {
            // The tables may have changed.
            (self.plan, self.last) = (None, None);
            CallsError::Source { place: self.client.place(), reason }
        })
    }
}
