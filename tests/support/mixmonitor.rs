//! Plays a recording onto a path with the system calls that Asterisk's MixMonitor makes.
//!
//! The order and sizes of the calls come from a trace of Asterisk 22 and from its `main/file.c`: every
//! directory of the path is made from the root down, the header goes out at once with its sizes
//! at zero, audio follows in full 32 KiB buffers that start behind the header (so never aligned to
//! a page), and only the close brings the last partial buffer and the patched sizes.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

/// The buffer Asterisk gives each recording's stream.
pub const BUFFER_BYTES: usize = 32 * 1024;

/// How a format starts its file, and which of those bytes are only known at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes before the audio.
    pub header_bytes: usize,
    /// Offsets of the 4-byte sizes that are zero until the file is closed.
    pub sizes_at: &'static [usize],
}

const PCM_IN_RIFF: Layout = Layout { header_bytes: 44, sizes_at: &[4, 40] };
const GSM_IN_RIFF: Layout = Layout { header_bytes: 60, sizes_at: &[4, GSM_SAMPLES_AT, 56] };
/// The one field that counts samples, not bytes.
const GSM_SAMPLES_AT: usize = 48;
const GSM_BLOCK_BYTES: u32 = 65;
const GSM_BLOCK_SAMPLES: u32 = 320;
const BARE: Layout = Layout { header_bytes: 0, sizes_at: &[] };

impl Layout {
    /// The layout Asterisk uses for a file of this name; `.wav` and `.WAV` are different formats.
    pub fn of(path: &Path) -> Layout {
        match path.extension().map(OsStrExt::as_bytes) {
            Some(b"wav" | b"wav16") => PCM_IN_RIFF,
            Some(b"WAV") => GSM_IN_RIFF,
            _ => BARE,
        }
    }
}

/// What happens to audio that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Without option `a`: an existing file is cut to nothing.
    Fresh,
    /// Option `a`: the header is written again with zeroed sizes, audio goes to the end.
    Append,
}

/// How the recording comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last partial buffer is written and the sizes are patched.
    HungUp,
    /// Asterisk is killed: what stood in its buffer is gone and the sizes stay zero.
    Killed,
}

/// One recording to be played.
#[derive(Clone, Copy, Debug)]
pub struct Play<'a> {
    /// A whole recording as Asterisk left it, header included.
    pub source: &'a [u8],
    /// What to do with a file that is there.
    pub start: Start,
    /// Whether the call ends in good order.
    pub end: End,
    /// Waited before each buffer; real time for 8 kHz PCM is 2.048 s, none by default.
    pub pace: Duration,
}

impl<'a> Play<'a> {
    /// Plays `source` from its first byte to a proper end, as fast as it goes.
    pub fn new(source: &'a [u8]) -> Play<'a> {
        Play { source, start: Start::Fresh, end: End::HungUp, pace: Duration::ZERO }
    }

    /// With MixMonitor's option `a`.
    pub fn appending(self) -> Play<'a> {
        Play { start: Start::Append, ..self }
    }

    /// Cut off by the death of Asterisk.
    pub fn killed(self) -> Play<'a> {
        Play { end: End::Killed, ..self }
    }

    /// With this wait before each buffer.
    pub fn paced(self, pace: Duration) -> Play<'a> {
        Play { pace, ..self }
    }

    /// Writes the recording to `path`, whose directories are made as Asterisk makes them.
    pub fn onto(&self, path: &Path) -> io::Result<()> {
        let path = std::path::absolute(path)?;
        make_directories(path.parent().unwrap_or(Path::new("/")))?;
        let layout = Layout::of(&path);
        let Some((header, audio)) = self.source.split_at_checked(layout.header_bytes) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("the recording for {} is shorter than its header", path.display()),
            ));
        };

        let fd = open(&path, self.start)?;
        let grown_from = begin(fd.as_fd(), header, layout)?;
        let mut buffers = audio.chunks(BUFFER_BYTES).peekable();
        while let Some(buffer) = buffers.next() {
            std::thread::sleep(self.pace);
            let last = buffers.peek().is_none();
            if self.end == End::Killed && last && buffer.len() < BUFFER_BYTES {
                return Ok(());
            }
            write_all(fd.as_fd(), buffer)?;
        }
        match self.end {
            End::Killed => Ok(()),
            End::HungUp => finish(fd.as_fd(), header, layout, grown_from),
        }
    }

    /// The bytes that `onto` leaves in a file that held `before` (nothing, if there was none).
    pub fn leaves(&self, path: &Path, before: &[u8]) -> Vec<u8> {
        let layout = Layout::of(path);
        let (header, mut audio) = self.source.split_at(layout.header_bytes);
        if self.end == End::Killed {
            audio = &audio[..audio.len() / BUFFER_BYTES * BUFFER_BYTES];
        }
        let mut file = header.to_vec();
        zero_sizes(&mut file, layout);
        if self.start == Start::Append && before.len() > layout.header_bytes {
            file.extend_from_slice(&before[layout.header_bytes..]);
        }
        let grown_from = file.len();
        file.extend_from_slice(audio);
        if self.end == End::HungUp {
            for &at in layout.sizes_at {
                let size = grown_size(header, layout, at, grown_from);
                file[at..at + 4].copy_from_slice(&size.to_le_bytes());
            }
        }
        file
    }
}

/// `mkdir` on every component from the root down; only "it is there" lets Asterisk go on.
fn make_directories(directory: &Path) -> io::Result<()> {
    let mut path = PathBuf::from("/");
    for component in directory.components() {
        let Component::Normal(name) = component else { continue };
        path.push(OsString::from(name));
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Never O_APPEND (it would break the header patches), O_EXCL or O_CLOEXEC.
fn open(path: &Path, start: Start) -> io::Result<OwnedFd> {
    let mut flags = OFlags::WRONLY | OFlags::CREATE;
    if start == Start::Fresh {
        flags |= OFlags::TRUNC;
    }
    let fd = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o666))?;
    rustix::fs::fcntl_getfl(&fd)?;
    Ok(fd)
}

/// Writes the header with its sizes at zero and goes to the end; gives the file's size there.
fn begin(fd: BorrowedFd<'_>, header: &[u8], layout: Layout) -> io::Result<u64> {
    rustix::fs::seek(fd, SeekFrom::Start(0))?;
    if layout.header_bytes > 0 {
        let mut empty = header.to_vec();
        zero_sizes(&mut empty, layout);
        write_all(fd, &empty)?;
    }
    seek_end(fd)
}

/// The C library asks for the size and then seeks to that offset, twice when it opens a file.
fn seek_end(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    rustix::fs::seek(fd, SeekFrom::Start(size))?;
    rustix::fs::seek(fd, SeekFrom::Start(size))?;
    Ok(size)
}

/// Patches the sizes in the header, as Asterisk does just before it closes the file.
fn finish(fd: BorrowedFd<'_>, header: &[u8], layout: Layout, grown_from: u64) -> io::Result<()> {
    if layout.sizes_at.is_empty() {
        return Ok(());
    }
    let end = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    rustix::fs::seek(fd, SeekFrom::Start(end))?;
    for &at in layout.sizes_at {
        let size = grown_size(header, layout, at, usize::try_from(grown_from).unwrap_or(0));
        rustix::fs::seek(fd, SeekFrom::Start(at as u64))?;
        write_all(fd, &size.to_le_bytes())?;
    }
    rustix::fs::seek(fd, SeekFrom::Start(end))?;
    Ok(())
}

/// The size the source has at this offset, plus the audio that was in the file before.
fn grown_size(header: &[u8], layout: Layout, at: usize, grown_from: usize) -> u32 {
    let bytes: [u8; 4] = header[at..at + 4].try_into().expect("a size is four bytes");
    let mut grown = u32::try_from(grown_from - layout.header_bytes).expect("a RIFF is under 4 GiB");
    if at == GSM_SAMPLES_AT {
        grown = grown / GSM_BLOCK_BYTES * GSM_BLOCK_SAMPLES;
    }
    u32::from_le_bytes(bytes) + grown
}

fn zero_sizes(header: &mut [u8], layout: Layout) {
    for &at in layout.sizes_at {
        header[at..at + 4].fill(0);
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
