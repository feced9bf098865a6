//! Requests about joined calls that may take a moment: on workers.

use super::adapter::Adapter;
use super::convert::{TTL, data, dot_attr, entry, file_attr, listed_type};
use super::errno::errno;
use super::on_worker::on_worker;
use crate::recording::{Attr, Kind, NodeId, Reader};
use crate::vfs::{Vfs, VfsError, Waits};
use fuser::{Generation, INodeNo, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// What a worker needs to hand a request on to another.
struct Hand {
    vfs: Arc<Vfs>,
}

impl Adapter {
    /// Looks a name up; that of a join on a worker: call records and local headers first, a target
    /// only if it must be.
    pub(super) fn look_up(&self, parent: NodeId, name: &[u8], reply: ReplyEntry) {
        match self.vfs.lookup(parent, name) {
            Err(VfsError::MustWait(waits)) => {
                Hand { vfs: self.vfs.clone() }.look_up(name.to_vec(), waits, reply);
            }
            result => entry(result, reply),
        }
    }

    pub(super) fn read_join(
        &self,
        reader: Reader,
        (id, offset, len): (NodeId, u64, usize),
        reply: ReplyData,
    ) {
        let waits = self.vfs.join_waits(id);
        on_worker!(self, waits, reply, |vfs| {
            if waits == Waits::Archive {
                vfs.admit_to_join(reader, id);
            }
            data(vfs.read_join(id, offset, len), reply);
        });
    }

    pub(super) fn list_joins(&self, offset: u64, reply: ReplyDirectory) {
        on_worker!(self, self.vfs.calls_wait(), reply, |vfs| {
            let mut reply = reply;
            let listed = vfs.list_joins(offset, false, &mut |e, _| {
                let name = OsStr::from_bytes(&e.name);
                !reply.add(INodeNo(e.id.0), e.next, listed_type(e.kind), name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    /// What is not known of a name without asking a target is found out when somebody looks at it,
    /// which the attributes given here must not save, so they are good for no time at all.
    pub(super) fn list_joins_plus(&self, offset: u64, reply: ReplyDirectoryPlus) {
        on_worker!(self, self.vfs.calls_wait(), reply, |vfs| {
            let mut reply = reply;
            let listed = vfs.list_joins(offset, true, &mut |e, full| {
                let name = OsStr::from_bytes(&e.name);
                let (attr, good_for) = match (full, e.kind) {
                    (Some(full), _) => (full.attr.clone(), TTL),
                    (None, Kind::Dir) => (dot_attr(), Duration::ZERO),
                    (None, kind) => {
                        (Attr { kind, mode: 0, nlink: 1, ..dot_attr() }, Duration::ZERO)
                    }
                };
                let attr = file_attr(e.id, &attr);
                !reply.add(attr.ino, e.next, name, &good_for, &attr, Generation(0))
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}

impl Hand {
    fn look_up(self, name: Vec<u8>, waits: Waits, reply: ReplyEntry) {
        on_worker!(self, waits, reply, |vfs| match vfs.look_up_join(&name, waits) {
            Err(VfsError::MustWait(more)) if more != waits => {
                Hand { vfs }.look_up(name, more, reply);
            }
            result => entry(result, reply),
        });
    }
}
