//! Who sent a request.

use std::os::unix::net::UnixStream;

/// `AUDIT_UID_UNSET` of the kernel: nobody logged in.
const NOBODY: u32 = u32::MAX;

/// The process at the other end of a connection, as the kernel knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its number.
    pub pid: u32,
    /// The user who had logged in, whom `sudo` does not change; not known for services.
    pub login_uid: Option<u32>,
    /// Its program.
    pub program: Option<String>,
}

impl Peer {
    /// Who is at the other end.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn of(stream: &UnixStream) -> std::io::Result<Peer> {
        let found = rustix::net::sockopt::socket_peercred(stream)?;
        let pid = u32::try_from(found.pid.as_raw_nonzero().get()).unwrap_or_default();
        let told = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let login = told("loginuid").and_then(|text| text.trim().parse().ok());
        Ok(Peer {
            uid: found.uid.as_raw(),
            gid: found.gid.as_raw(),
            pid,
            login_uid: login.filter(|uid| *uid != NOBODY),
            program: told("comm").map(|text| text.trim_end().to_owned()),
        })
    }
}
