//! Listings. Google begins one after any key. Azure goes on only from marks of its own, so a
//! listing that stopped at the end of a page is kept, and gone on with by who asks for what follows.

use super::fault::no_bucket;
use super::{Cloud, CloudStore};
use crate::limits;
use crate::store::fault::Fault;
use crate::store::{Listed, StoreErrorKind};
use opendal::options::ListOptions;
use opendal::raw::{OpList, oio};
use parking_lot::Mutex;
use std::collections::VecDeque;

type Answer<T> = Result<T, Fault>;

/// Where Azure's listings stopped.
#[derive(Default)]
pub(super) struct Listings(Mutex<VecDeque<Stopped>>);

struct Stopped {
    prefix: String,
    /// The last key that was given.
    after: String,
    lister: oio::Lister,
}

impl std::fmt::Debug for Listings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listings({})", self.0.lock().len())
    }
}

impl Listings {
    fn take(&self, prefix: &str, after: &str) -> Option<oio::Lister> {
        let mut stopped = self.0.lock();
        let place = stopped.iter().position(|s| s.prefix == prefix && s.after == after)?;
        stopped.remove(place).map(|s| s.lister)
    }

    fn keep(&self, prefix: &str, after: &str, lister: oio::Lister) {
        let mut stopped = self.0.lock();
        if stopped.len() >= limits::OPEN_LISTINGS {
            stopped.pop_front();
        }
        stopped.push_back(Stopped { prefix: prefix.into(), after: after.into(), lister });
    }
}

impl CloudStore {
    pub(super) async fn try_list(&self, prefix: &str, after: &str) -> Answer<Vec<Listed>> {
        let mut lister = match (self.options.cloud, after) {
            (Cloud::Google, _) | (_, "") => self.begin(prefix, after)?,
            (Cloud::Azure, _) => match self.listings.take(prefix, after) {
                Some(lister) => lister,
                None => match self.find(prefix, after).await? {
                    Some(lister) => lister,
                    // Deleted meanwhile: what is behind its place follows.
                    None => return self.behind(prefix, after).await,
                },
            },
        };
        let mut rows = Vec::new();
        while rows.len() < limits::LIST_PAGE_MAX {
            match self.next(&mut lister).await? {
                Some(row) => rows.push(row),
                None => return Ok(rows),
            }
        }
        if let (Cloud::Azure, Some(last)) = (self.options.cloud, rows.last()) {
            self.listings.keep(prefix, &last.key, lister);
        }
        Ok(rows)
    }

    fn begin(&self, prefix: &str, after: &str) -> Answer<oio::Lister> {
        let options = ListOptions {
            recursive: true,
            limit: Some(limits::LIST_PAGE_MAX),
            start_after: (!after.is_empty()).then(|| after.to_owned()),
            ..ListOptions::default()
        };
        // The services' word for everything.
        let prefix = if prefix.is_empty() { "/" } else { prefix };
        let lister = self.service.list_dyn(&self.context, prefix, OpList::from(options));
        lister.map_err(|e| self.fault(e))
    }

    async fn next(&self, lister: &mut oio::Lister) -> Answer<Option<Listed>> {
        match self.call(0, lister.next_dyn()).await {
            Ok(Some(entry)) => {
                let size = entry.metadata().content_length();
                Ok(Some(Listed { key: entry.path().to_owned(), size }))
            }
            Ok(None) => Ok(None),
            Err(f) if f.kind == StoreErrorKind::NotFound => Err(no_bucket(self.options.cloud, f)),
            Err(f) => Err(f),
        }
    }

    /// A listing that has just given `after`.
    async fn find(&self, prefix: &str, after: &str) -> Answer<Option<oio::Lister>> {
        let mut lister = self.begin(prefix, "")?;
        while let Some(row) = self.next(&mut lister).await? {
            if row.key == after {
                return Ok(Some(lister));
            }
        }
        Ok(None)
    }

    async fn behind(&self, prefix: &str, after: &str) -> Answer<Vec<Listed>> {
        let mut lister = self.begin(prefix, "")?;
        let mut rows = Vec::new();
        while let Some(row) = self.next(&mut lister).await? {
            if row.key.as_str() > after {
                rows.push(row);
                if rows.len() == limits::LIST_PAGE_MAX {
                    break;
                }
            }
        }
        Ok(rows)
    }
}
