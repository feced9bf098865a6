//! The keeper at work: what comes in goes to the policy, and what it decides is done.

use super::kept::{Inheritance, Kept};
use super::message::Message;
use super::policy::{Action, End, Patience, Policy};
use super::socket::{Datagram, NotifySocket};
use super::{Place, stage};
use crate::cli::bypass;
use crate::clock::{Clock, SystemClock};
use crate::daemon::alarm::Alarm;
use crate::daemon::notify::notify;
use crate::limits;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::signal::unix::{SignalKind, signal};

/// Environment that is meant for the keeper, not for the daemon.
const NOT_INHERITED: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// A daemon, its predecessors' legacy and its successors.
pub(super) struct Keeper {
    command: Vec<OsString>,
    place: Place,
    socket: NotifySocket,
    kept: Kept,
    policy: Policy,
    watchdog: Duration,
    child: Option<Child>,
    /// How the last daemon ended.
    last: u8,
    over: bool,
}

/// What woke the keeper.
enum Event {
    Notification,
    Ended,
    Stop,
    Reload,
    Restart,
    Time,
}

impl Keeper {
    /// A keeper that has started nothing yet.
    ///
    /// # Errors
    /// The socket can not be made.
    pub fn new(
        command: Vec<OsString>,
        place: Place,
        patience: Patience,
        socket_dir: &Path,
    ) -> io::Result<Keeper> {
        Ok(Keeper {
            command,
            place,
            socket: NotifySocket::bind(socket_dir)?,
            kept: Kept::default(),
            policy: Policy::new(patience, Instant::now()),
            watchdog: patience.watchdog,
            child: None,
            last: 0,
            over: false,
        })
    }

    /// Runs until it is told to stop; returns how the last daemon ended.
    ///
    /// # Errors
    /// Signals or the socket can not be waited for.
    pub fn run(mut self) -> io::Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = self.socket.to_wait_on()?;
        runtime.block_on(async {
            let readable = UnixDatagram::from_std(socket)?;
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut hangup = signal(SignalKind::hangup())?;
            let mut replace = signal(SignalKind::user_defined1())?;
            let mut ended = signal(SignalKind::child())?;
            self.on_time();
            while !self.over {
                let look = Instant::now() + limits::KEEPER_LOOK;
                let until = self.policy.deadline().map_or(look, |at| at.min(look));
                let event = tokio::select! {
                    ready = readable.readable() => {
                        ready?;
                        // Cleared before it is read, so that nothing that comes later is missed.
                        let nothing = || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into());
                        let _cleared = readable.try_io(Interest::READABLE, nothing);
                        Event::Notification
                    }
                    _ = ended.recv() => Event::Ended,
                    _ = terminate.recv() => Event::Stop,
                    _ = interrupt.recv() => Event::Stop,
                    _ = hangup.recv() => Event::Reload,
                    _ = replace.recv() => Event::Restart,
                    () = tokio::time::sleep_until(until.into()) => Event::Time,
                };
                self.handle(&event);
            }
            Ok(self.last)
        })
    }

    fn handle(&mut self, event: &Event) {
        // What a daemon gave away before it died counts, so it is read before its end is.
        self.read_notifications();
        self.look_after_child();
        match event {
            Event::Stop => {
                let action = self.policy.stop(Instant::now());
                self.act(action);
            }
            Event::Restart => {
                if let Some(action) = self.policy.restart(Instant::now()) {
                    self.act(action);
                }
            }
            Event::Reload => self.tell(Signal::HUP),
            Event::Notification | Event::Ended | Event::Time => {}
        }
        self.on_time();
    }

    fn on_time(&mut self) {
        for name in self.kept.drop_dead() {
            tracing::info!(name, "a kept descriptor is dead; it is dropped");
        }
        if self.over {
            return;
        }
        if let Some(action) = self.policy.at(Instant::now()) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start => self.start(),
            Action::Terminate => self.tell(Signal::TERM),
            Action::HandOver => self.tell(Signal::USR1),
            Action::Kill => self.tell(Signal::KILL),
            Action::Bypass(why) => self.bypass(why),
            Action::BypassAndKill(why) => {
                self.bypass(why);
                self.tell(Signal::KILL);
            }
            Action::Finish => self.finish(),
        }
    }

    fn start(&mut self) {
        if self.policy.bypassed() {
            // Also what the last one sent after the mount was taken away.
            self.kept.clear();
        }
        let started = self.kept.inheritance().and_then(|inheritance| self.spawn(&inheritance));
        match started {
            Ok(child) => {
                tracing::info!(pid = child.id(), kept = self.kept.len(), "started");
                self.child = Some(child);
            }
            Err(error) => {
                tracing::error!(%error, "no process can be started");
                self.ended(End::Other);
            }
        }
    }

    fn spawn(&self, inheritance: &Inheritance) -> io::Result<Child> {
        let mut command = stage::command(&inheritance.numbers(), &self.command);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command.env("NOTIFY_SOCKET", self.socket.path()).stdin(Stdio::null());
        command.env("WATCHDOG_USEC", self.watchdog.as_micros().to_string());
        if !inheritance.names.is_empty() {
            command.env("LISTEN_FDS", inheritance.names.len().to_string());
            command.env("LISTEN_FDNAMES", inheritance.names.join(":"));
        }
        command.spawn()
    }

    fn look_after_child(&mut self) {
        let Some(child) = &mut self.child else { return };
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => {
                // Whatever it sent last is in the socket by now.
                self.read_notifications();
                self.child = None;
                self.last = code(status);
                tracing::info!(%status, "the daemon ended");
                let killed = status.signal() == Some(Signal::KILL.as_raw());
                self.ended(if killed { End::Killed } else { End::Other });
            }
            Err(error) => tracing::error!(%error, "the daemon can not be waited for"),
        }
    }

    fn ended(&mut self, end: End) {
        if let Some(action) = self.policy.ended(Instant::now(), end) {
            self.act(action);
        }
    }

    fn finish(&mut self) {
        // One that stopped in good order has unmounted by itself.
        self.detach("the daemon was stopped and did not unmount");
        self.over = true;
    }

    fn bypass(&mut self, why: &str) {
        self.detach(why);
        // The next daemon must start anew: what is kept belongs to the mount that is gone.
        let closed = self.kept.clear();
        tracing::warn!(closed, "kept descriptors are closed");
    }

    fn detach(&self, why: &str) {
        let (mountpoint, essentials) = self.place.find();
        let Some(mountpoint) = mountpoint else {
            tracing::error!("{why}; nothing can be unmounted: where it was mounted is not known");
            return;
        };
        match bypass::detach(&mountpoint) {
            Ok(0) => tracing::info!(mountpoint = %mountpoint.display(), "nothing is mounted"),
            Ok(_) => {
                let warning = bypass::warning(&mountpoint, why);
                tracing::error!("{warning}");
                notify(&format!("STATUS={warning}"));
                let alarm = Alarm::new(SystemClock.now(), why);
                bypass::raise(&essentials, alarm);
            }
            Err(error) => tracing::error!("{why}; {error}"),
        }
    }

    fn tell(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        if let Err(error) = kill_process(Pid::from_child(child), signal) {
            tracing::warn!(%error, ?signal, "the daemon can not be signalled");
        }
    }

    fn read_notifications(&mut self) {
        loop {
            match self.socket.receive() {
                Ok(datagram) => self.notified(datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "a notification could not be read");
                    return;
                }
            }
        }
    }

    fn notified(&mut self, datagram: Datagram) {
        let child = self.child.as_ref().and_then(|c| i32::try_from(c.id()).ok());
        if !datagram.is_from(child) {
            tracing::warn!(?datagram, "a notification from elsewhere is ignored");
            return;
        }
        let message = Message::parse(&datagram.text, self.policy.stopping());
        let now = Instant::now();
        if message.ready {
            self.policy.ready(now);
        }
        if message.fed {
            self.policy.fed(now);
        }
        if let Some(by) = message.extend {
            self.policy.extend(now, by);
        }
        if message.remove {
            self.kept.remove(&message.name);
        }
        if message.store {
            for descriptor in datagram.descriptors {
                if let Err(error) = self.kept.add(&message.name, descriptor, message.poll) {
                    tracing::error!(%error, name = message.name, "a descriptor is not kept");
                }
            }
        }
        // With everything else that came along the end of a barrier's pipe is closed here.
        if !message.pass_on.is_empty() {
            notify(message.pass_on.trim_end());
        }
    }
}

/// As a shell tells it: 128 and the signal's number for a death by signal.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| signal.saturating_add(128)));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
