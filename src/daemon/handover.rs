//! Being replaced without anybody noticing: the kernel's connection and the lower directory are
//! kept by the service manager (docs/OPERATIONS.md), and what is needed to go on with them is in
//! the runtime directory.

use super::notify;
use crate::catalog::Identity;
use crate::faults;
use crate::fuse::{self, Connection, Server};
use crate::limits::HANDOVER_BARRIER;
use crate::lower::Lower;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const DEVICE: &str = "spoolfs-device";
const LOWER: &str = "spoolfs-lower";

/// A connection that a predecessor left and that is alive.
#[derive(Debug)]
pub(super) struct Kept {
    pub device: OwnedFd,
    pub lower: OwnedFd,
    pub connection: Connection,
}

/// What the service manager kept for us, if it is of use. A mount that can not be gone on with is
/// taken out of the tree, without touching it: nobody answers there.
///
/// # Errors
/// If the mount is still there and can not be taken away.
pub(super) fn kept(mountpoint: &Path, runtime: &Path) -> io::Result<Option<Kept>> {
    let mut inherited = notify::inherited();
    let mut take = |name: &str| {
        let at = inherited.iter().position(|(n, _)| n == name)?;
        Some(inherited.swap_remove(at).1)
    };
    let (device, lower) = (take(DEVICE), take(LOWER));
    if device.is_none() && lower.is_none() {
        return Ok(None);
    }
    let why = match (device, lower) {
        (Some(device), Some(lower)) => match usable(&device, mountpoint, runtime)? {
            Ok(connection) => return Ok(Some(Kept { device, lower, connection })),
            Err(why) => why,
        },
        _ => "one of its descriptors is missing",
    };
    tracing::error!(
        "the mount of the daemon before can not be gone on with ({why}): files that were open \
         get errors, what was written is on disk"
    );
    begin_anew(mountpoint)?;
    Ok(None)
}

fn usable(
    device: &OwnedFd,
    mountpoint: &Path,
    runtime: &Path,
) -> io::Result<Result<Connection, &'static str>> {
    let mut poll = [PollFd::new(device, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, Some(&now)))?;
    let [poll] = &poll;
    if poll.revents().intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
        return Ok(Err("it was unmounted"));
    }
    if fuse::own_mounts_at(mountpoint)? == 0 {
        return Ok(Err("it was taken out of the tree"));
    }
    Ok(Connection::load(runtime).ok_or("what was agreed on with the kernel is lost"))
}

/// Lets go of what was kept and takes the mount away, so that a new one is not stacked upon it.
pub(super) fn begin_anew(mountpoint: &Path) -> io::Result<()> {
    forget();
    fuse::detach(mountpoint)
}

/// The service manager need not keep anything any more.
pub(super) fn forget() {
    notify::remove(DEVICE);
    notify::remove(LOWER);
}

/// Which catalog a connection belongs to.
pub(super) fn catalog_name(identity: &Identity) -> String {
    format!("{}-{}", identity.instance, identity.epoch)
}

/// Has the connection kept, and what was agreed on written down. Tells whether anybody keeps it.
///
/// # Errors
/// If it could not be written down, or not be sent: nobody could go on with it then.
pub(super) fn keep(server: &Server, lower: &Lower, runtime: &Path) -> io::Result<bool> {
    server.connection().store(runtime)?;
    let root = lower.root().as_file()?;
    let kept =
        notify::store(DEVICE, server.device().as_fd())? && notify::store(LOWER, root.as_fd())?;
    faults::point("handover.after_kept");
    if let Err(error) = notify::barrier(HANDOVER_BARRIER) {
        // It was sent, in order, over a socket that loses nothing.
        tracing::warn!(%error, "it is not known yet whether the connection is kept");
    }
    Ok(kept)
}
