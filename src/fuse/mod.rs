//! The kernel's edge: mounting, and translating FUSE requests to `vfs` and back.
//!
//! **Invariant:** no semantics here. A request that may wait is handed to a worker; every other
//! is answered in the thread that read it.

mod adapter;
mod backing;
mod connection;
mod contain;
mod convert;
mod errno;
mod joins;
mod mount;
mod on_worker;
mod relay;

pub use connection::Connection;
pub use contain::Watch;
pub use mount::{Mounted, detach, mount_points_below, own_mounts_at, unmount};

use crate::faults;
use crate::sys;
use crate::vfs::{Resumption, Vfs};
use adapter::Adapter;
use backing::Backings;
use connection::{Handshake, Wanted};
use fuser::Session;
use relay::Relay;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mounted file system that answers once it runs.
pub struct Server {
    session: Session<Adapter>,
    mounted: Mounted,
    device: Arc<OwnedFd>,
    connection: Connection,
    /// Where the kernel sends nothing again.
    relay: Option<Arc<Relay>>,
    watch: Arc<Watch>,
}

/// What a new connection is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Let the kernel read and write local files itself where it can.
    pub passthrough: bool,
    /// Let the kernel keep unanswered requests for a successor where it can; else we do.
    pub resend: bool,
    /// Which catalog the connection belongs to.
    pub catalog: String,
    /// The catalog's mark now.
    pub mark: u64,
    /// Where unanswered requests are kept where the kernel does not.
    pub runtime: PathBuf,
}

impl Server {
    /// Mounts `vfs` over `mountpoint`.
    ///
    /// # Errors
    /// As `mount(2)`; /dev/fuse is missing or may not be opened; no room in the runtime directory.
    pub fn mount(vfs: Arc<Vfs>, mountpoint: &Path, options: &Options) -> io::Result<Server> {
        let (device, mounted) = Mounted::new(mountpoint)?;
        let device = Arc::new(device);
        let depth = if vfs.lower_is_stacked() { 2 } else { 1 };
        let want =
            Wanted { passthrough: options.passthrough.then_some(depth), resend: options.resend };
        let watch = Arc::new(Watch::default());
        let (adapter, handshake) = Adapter::new(vfs.clone(), want, watch.clone());
        let init = connection::hear_init(&device)?;
        let (session, answer, other) = connection::shake_hands(&init, adapter)?;
        rustix::io::write(&device, &answer)?;
        let agreed = std::mem::take(&mut *handshake.lock());
        let mut connection = agreed.connection(options, &init);
        let passthrough = Backings::new(device.clone());
        match plain_because(options, &agreed, &passthrough, &vfs) {
            None => {
                vfs.set_passthrough(Arc::new(passthrough));
                connection.passthrough = true;
            }
            reason => connection.plain_because = reason,
        }
        let relay = attach(&session, &device, &connection, other, &options.runtime, None)?;
        Ok(Server { session, mounted, device, connection, relay, watch })
    }

    /// Goes on with a connection that a predecessor began, whose descriptor was kept, and opens
    /// again what the kernel has open.
    ///
    /// # Errors
    /// If the session can not be made.
    pub fn take_over(
        vfs: &Arc<Vfs>,
        mountpoint: &Path,
        device: OwnedFd,
        mut connection: Connection,
        resumption: Resumption,
        runtime: &Path,
    ) -> io::Result<Server> {
        let watch = Arc::new(Watch::default());
        let (adapter, _) = Adapter::new(vfs.clone(), Wanted::default(), watch.clone());
        let (session, _answered_long_ago, other) =
            connection::shake_hands(&connection.init()?, adapter)?;
        let device = Arc::new(device);
        if connection.passthrough {
            vfs.set_passthrough(Arc::new(Backings::new(device.clone())));
        }
        faults::point("handover.before_resume");
        vfs.resume(resumption);
        faults::point("handover.after_resume");
        let relay = attach(&session, &device, &connection, other, runtime, Some(vfs.clone()))?;
        if connection.resend {
            resend(&device)?;
            faults::point("handover.after_resend");
        }
        connection.taken_over += 1;
        if let Err(error) = connection.store(runtime) {
            tracing::warn!(%error, "how often the mount was taken over is not noted");
        }
        let mounted = Mounted::at(mountpoint);
        Ok(Server { session, mounted, device, connection, relay, watch })
    }

    /// The mount, to end it by.
    pub fn mounted(&self) -> Mounted {
        self.mounted.clone()
    }

    /// The kernel's end of the connection: whoever holds it keeps the mount alive.
    pub fn device(&self) -> Arc<OwnedFd> {
        self.device.clone()
    }

    /// What the threads that answer the kernel are doing.
    pub fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// What was agreed on with the kernel.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Answers the kernel until the file system is unmounted and its last file closed.
    ///
    /// # Errors
    /// As reading from /dev/fuse.
    pub fn run(self) -> io::Result<()> {
        let relayed = self.relay.is_some();
        if let Some(relay) = self.relay {
            relay.run()?;
        }
        // The relay ends a session by shutting the socket, which the session takes for an error.
        self.session.run().or_else(|error| if relayed { Ok(()) } else { Err(error) })
    }
}

/// Has the session listen to the kernel: by itself, or through a relay. `resume` is the file system
/// that goes on with a predecessor's connection.
fn attach(
    session: &Session<Adapter>,
    device: &Arc<OwnedFd>,
    connection: &Connection,
    other: OwnedFd,
    runtime: &Path,
    resume: Option<Arc<Vfs>>,
) -> io::Result<Option<Arc<Relay>>> {
    if connection.resend {
        sys::fuse::replace_device(session, device)?;
        return Ok(None);
    }
    let resumed = resume.is_some();
    let refused = move |handle| {
        if let Some(vfs) = &resume {
            vfs.refused_open(handle);
        }
    };
    Relay::new(device.clone(), other, runtime, resumed, Box::new(refused)).map(Some)
}

/// Why files are not passed through; none if they are.
fn plain_because(
    options: &Options,
    agreed: &Handshake,
    passthrough: &Backings,
    vfs: &Vfs,
) -> Option<String> {
    if !options.passthrough {
        return Some("the configuration says passthrough = \"never\"".to_owned());
    }
    if !agreed.passthrough {
        return Some("this kernel can not pass files through; Linux 6.9 and later can".to_owned());
    }
    let tried = vfs.scratch().map_err(io::Error::other).and_then(|file| passthrough.probe(&file));
    tried.err().map(|error| {
        format!("the kernel refused to pass a file of the lower directory through: {error}")
    })
}

/// Asks the kernel for the requests that a predecessor had read and not answered:
/// FUSE_NOTIFY_RESEND of linux/fuse.h, a `struct fuse_out_header` alone.
fn resend(device: &OwnedFd) -> io::Result<()> {
    const RESEND: u32 = 7;
    let words = [16, RESEND, 0, 0];
    let message: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    rustix::io::write(device, &message)?;
    Ok(())
}
