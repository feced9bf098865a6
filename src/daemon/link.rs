//! What is between us and the kernel, and how much of it outlives the daemon.

use crate::control::LinkReport;
use crate::fuse::{Connection, Watch, mount_points_below};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The connection to the kernel.
#[derive(Clone, Debug)]
pub struct Link {
    /// What was agreed on.
    pub connection: Connection,
    /// Somebody keeps it should the daemon die.
    pub kept: bool,
    /// What the threads that answer are doing.
    pub watch: Arc<Watch>,
    /// What an operator should know of it, each a sentence.
    pub warnings: Vec<String>,
}

impl Link {
    /// As `status` shows it.
    pub fn report(&self) -> LinkReport {
        LinkReport {
            plain_because: self.connection.plain_because.clone(),
            survives: self.survives().to_owned(),
            taken_over: self.connection.taken_over,
            faults: self.watch.faults(),
        }
    }

    fn survives(&self) -> &'static str {
        match (self.kept, self.connection.resend) {
            (false, _) => {
                "nobody keeps the connection: the death of this daemon ends open files; start it \
                 with systemd or `spoolfs keeper`"
            }
            (true, true) => {
                "calls go on when this daemon dies or is replaced; the kernel repeats what was \
                 not answered"
            }
            (true, false) => {
                "calls go on when this daemon dies or is replaced; what was not answered is kept \
                 in the runtime directory, because the kernel does not repeat it"
            }
        }
    }
}

/// What about this machine would make a mount useless or short-lived without a word.
pub(super) fn warnings(mountpoint: &Path) -> Vec<String> {
    invisible(mountpoint).into_iter().chain(impatient_kernel()).collect()
}

/// A service in a mount namespace of its own mounts for itself alone.
fn invisible(mountpoint: &Path) -> Option<String> {
    let namespace = |pid: &str| std::fs::read_link(PathBuf::from("/proc").join(pid).join("ns/mnt"));
    let (ours, first) = (namespace("self").ok()?, namespace("1").ok()?);
    if ours == first {
        return None;
    }
    let mounts = mount_points_below("1", mountpoint).ok()?;
    let seen = mounts.iter().any(|(point, kind)| point == mountpoint && kind == "fuse.spoolfs");
    (!seen).then(|| {
        format!(
            "{} is mounted in this service's own mount namespace only, so that the PBX does not \
             see it; remove ProtectSystem=, PrivateTmp= and their like from the unit (see \
             docs/OPERATIONS.md)",
            mountpoint.display()
        )
    })
}

/// A kernel that ends requests by itself would end the mount in an outage.
fn impatient_kernel() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/fs/fuse/default_request_timeout").ok()?;
    let seconds: u32 = text.trim().parse().ok()?;
    (1..60).contains(&seconds).then(|| {
        format!(
            "the kernel ends the mount if a request is not answered within {seconds} s; set \
             fs.fuse.default_request_timeout to 0, so that calls survive a restart"
        )
    })
}
