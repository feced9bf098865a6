//! libFLAC's encoder.
#![allow(unsafe_code, reason = "libFLAC is a C library")]

use libflac_sys as ffi;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

/// Takes what is encoded. The header is written over at the end.
pub trait Sink {
    /// Bytes that belong at this offset of the FLAC file; `frame`: they are a whole frame, the next
    /// one.
    ///
    /// # Errors
    /// The encoder stops and gives it back.
    fn write(&mut self, at: u64, bytes: &[u8], frame: bool) -> io::Result<()>;
}

/// What is encoded, and how.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Channels, interleaved.
    pub channels: u8,
    /// Bits of a sample.
    pub bits: u8,
    /// Samples of each channel in a second.
    pub rate: u32,
    /// Samples of each channel.
    pub samples: u64,
    /// Samples of each channel in a frame.
    pub block: u32,
    /// libFLAC's level, 0 to 8.
    pub level: u32,
    /// Name and content of an APPLICATION block.
    pub application: ([u8; 4], &'a [u8]),
    /// Samples that the SEEKTABLE leads to, in order: each the first of a frame.
    pub seek_points: &'a [u64],
}

/// An encoder at work. The sink gets all of the file when `finish` has returned without an error.
pub struct Encoder<S: Sink> {
    raw: NonNull<ffi::FLAC__StreamEncoder>,
    channels: u8,
    /// Ours until the encoder is gone.
    blocks: Vec<Block>,
    /// What libFLAC holds a pointer to, made from this box and used through the pointer only.
    state: NonNull<State<S>>,
    finished: bool,
}

struct State<S> {
    sink: S,
    at: u64,
    failed: Option<io::Error>,
}

/// A metadata block.
struct Block(NonNull<ffi::FLAC__StreamMetadata>);

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: it came from `FLAC__metadata_object_new`, is not null, and nobody else deletes it.
        unsafe { ffi::FLAC__metadata_object_delete(self.0.as_ptr()) }
    }
}

impl Block {
    fn new(kind: ffi::FLAC__MetadataType) -> io::Result<Block> {
        // SAFETY: takes a number, and answers null or an object that is ours.
        let raw = unsafe { ffi::FLAC__metadata_object_new(kind) };
        NonNull::new(raw).map(Block).ok_or_else(no_memory)
    }

    fn application(name: [u8; 4], content: &[u8]) -> io::Result<Block> {
        let block = Block::new(ffi::FLAC__METADATA_TYPE_APPLICATION)?;
        let len = u32::try_from(content.len()).map_err(io::Error::other)?;
        // SAFETY: the object is an APPLICATION block, so that is the member of the union that it
        // has. With `copy` set libFLAC reads `len` bytes and keeps nothing of ours.
        let copied = unsafe {
            (*block.0.as_ptr()).data.application.id = name;
            let content = content.as_ptr().cast_mut();
            ffi::FLAC__metadata_object_application_set_data(block.0.as_ptr(), content, len, 1)
        };
        if copied == 0 { Err(no_memory()) } else { Ok(block) }
    }

    fn seek_table(points: &[u64]) -> io::Result<Block> {
        let block = Block::new(ffi::FLAC__METADATA_TYPE_SEEKTABLE)?;
        let count = u32::try_from(points.len()).map_err(io::Error::other)?;
        // SAFETY: the object is a SEEKTABLE; libFLAC reads `count` numbers and keeps no pointer.
        let added = unsafe {
            ffi::FLAC__metadata_object_seektable_template_append_points(
                block.0.as_ptr(),
                points.as_ptr().cast_mut(),
                count,
            )
        };
        if added == 0 { Err(no_memory()) } else { Ok(block) }
    }
}

impl<S: Sink> fmt::Debug for Encoder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("channels", &self.channels).finish_non_exhaustive()
    }
}

impl<S: Sink> Encoder<S> {
    /// Begins a file: its metadata goes to the sink.
    ///
    /// # Errors
    /// What the sink fails with; settings that libFLAC refuses.
    pub fn new(settings: &Settings<'_>, sink: S) -> io::Result<Encoder<S>> {
        let (name, content) = settings.application;
        let blocks =
            vec![Block::application(name, content)?, Block::seek_table(settings.seek_points)?];
        // SAFETY: takes nothing, and answers null or an encoder that is ours.
        let raw = NonNull::new(unsafe { ffi::FLAC__stream_encoder_new() }).ok_or_else(no_memory)?;
        let state = Box::into_raw(Box::new(State { sink, at: 0, failed: None }));
        // SAFETY: `Box::into_raw` gives no null.
        let state = unsafe { NonNull::new_unchecked(state) };
        let channels = settings.channels;
        let mut encoder = Encoder { raw, channels, blocks, state, finished: false };
        encoder.begin(settings)?;
        Ok(encoder)
    }

    fn begin(&mut self, settings: &Settings<'_>) -> io::Result<()> {
        let raw = self.raw.as_ptr();
        let mut blocks: Vec<_> = self.blocks.iter().map(|block| block.0.as_ptr()).collect();
        // SAFETY: the encoder is ours, alive, and not begun yet. `set_metadata` copies the array of
        // pointers; the blocks live until the encoder is gone.
        let set = unsafe {
            [
                ffi::FLAC__stream_encoder_set_channels(raw, settings.channels.into()),
                ffi::FLAC__stream_encoder_set_bits_per_sample(raw, settings.bits.into()),
                ffi::FLAC__stream_encoder_set_sample_rate(raw, settings.rate),
                // Of the rates above 65,535 a part can not be told in a frame's header.
                ffi::FLAC__stream_encoder_set_streamable_subset(raw, 0),
                ffi::FLAC__stream_encoder_set_compression_level(raw, settings.level),
                ffi::FLAC__stream_encoder_set_blocksize(raw, settings.block),
                ffi::FLAC__stream_encoder_set_total_samples_estimate(raw, settings.samples),
                ffi::FLAC__stream_encoder_set_metadata(
                    raw,
                    blocks.as_mut_ptr(),
                    u32::try_from(blocks.len()).unwrap_or(0),
                ),
            ]
        };
        if set.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the functions are of the types that are asked for, and the state that they are
        // called with is alive until the encoder is gone.
        let begun = unsafe {
            ffi::FLAC__stream_encoder_init_stream(
                raw,
                Some(write::<S>),
                Some(seek::<S>),
                Some(tell::<S>),
                None,
                self.state.as_ptr().cast(),
            )
        };
        match begun {
            ffi::FLAC__STREAM_ENCODER_INIT_STATUS_OK => Ok(()),
            status => Err(self.failure(&format!("status {status} at the beginning"))),
        }
    }

    /// Encodes samples of all channels, interleaved.
    ///
    /// # Errors
    /// What the sink fails with.
    pub fn encode(&mut self, samples: &[i32]) -> io::Result<()> {
        let count = samples.len() / usize::from(self.channels);
        let count = u32::try_from(count).map_err(io::Error::other)?;
        let raw = self.raw.as_ptr();
        // SAFETY: the encoder is ours and begun with so many channels; libFLAC reads `count` samples
        // of each, which the slice has, and keeps no pointer to it.
        let done =
            unsafe { ffi::FLAC__stream_encoder_process_interleaved(raw, samples.as_ptr(), count) };
        if done == 0 { Err(self.failure("samples were refused")) } else { Ok(()) }
    }

    /// Ends the file, and gives the sink back.
    ///
    /// # Errors
    /// What the sink fails with.
    pub fn finish(mut self) -> io::Result<S> {
        self.finished = true;
        // SAFETY: the encoder is ours and alive.
        let done = unsafe { ffi::FLAC__stream_encoder_finish(self.raw.as_ptr()) };
        if done == 0 {
            return Err(self.failure("it could not be ended"));
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the encoder and its blocks are ours, used no more, and not dropped again. After
        // that nobody has a pointer to the state, which came from a box.
        unsafe {
            ffi::FLAC__stream_encoder_delete(this.raw.as_ptr());
            drop(std::ptr::read(&this.blocks));
            Ok(Box::from_raw(this.state.as_ptr()).sink)
        }
    }

    /// Why libFLAC refused: what the sink said, else its own word.
    fn failure(&mut self, what: &str) -> io::Error {
        // SAFETY: the state is alive, and no function of libFLAC that uses it is running.
        let failed = unsafe { (*self.state.as_ptr()).failed.take() };
        failed.unwrap_or_else(|| {
            // SAFETY: the encoder is ours and alive.
            let state = unsafe { ffi::FLAC__stream_encoder_get_state(self.raw.as_ptr()) };
            io::Error::other(format!("libFLAC: {what} (state {state})"))
        })
    }
}

impl<S: Sink> Drop for Encoder<S> {
    fn drop(&mut self) {
        // SAFETY: the encoder is ours and deleted once; that may still call what it was given, so
        // the state goes after it.
        unsafe {
            if !self.finished {
                // What it writes now is of no use.
                (*self.state.as_ptr()).failed = Some(io::ErrorKind::Interrupted.into());
            }
            ffi::FLAC__stream_encoder_delete(self.raw.as_ptr());
            drop(Box::from_raw(self.state.as_ptr()));
        }
    }
}

fn no_memory() -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}

unsafe extern "C" fn write<S: Sink>(
    _: *const ffi::FLAC__StreamEncoder,
    bytes: *const ffi::FLAC__byte,
    len: usize,
    samples: u32,
    _: u32,
    state: *mut c_void,
) -> ffi::FLAC__StreamEncoderWriteStatus {
    if len == 0 {
        return ffi::FLAC__STREAM_ENCODER_WRITE_STATUS_OK;
    }
    // SAFETY: libFLAC calls with the state that it was given, which is alive and used by nobody else
    // while libFLAC runs, and with `len` bytes that do not change meanwhile.
    let (state, bytes) =
        unsafe { (&mut *state.cast::<State<S>>(), std::slice::from_raw_parts(bytes, len)) };
    if state.failed.is_some() {
        return ffi::FLAC__STREAM_ENCODER_WRITE_STATUS_FATAL_ERROR;
    }
    // A panic must not pass through C.
    let (at, sink) = (state.at, &mut state.sink);
    let written = catch_unwind(AssertUnwindSafe(|| sink.write(at, bytes, samples > 0)))
        .unwrap_or_else(|_| Err(io::Error::other("a panic")));
    match written {
        Ok(()) => {
            state.at += len as u64;
            ffi::FLAC__STREAM_ENCODER_WRITE_STATUS_OK
        }
        Err(error) => {
            state.failed = Some(error);
            ffi::FLAC__STREAM_ENCODER_WRITE_STATUS_FATAL_ERROR
        }
    }
}

unsafe extern "C" fn seek<S: Sink>(
    _: *const ffi::FLAC__StreamEncoder,
    at: u64,
    state: *mut c_void,
) -> ffi::FLAC__StreamEncoderSeekStatus {
    // SAFETY: as in `write`.
    unsafe { (*state.cast::<State<S>>()).at = at };
    ffi::FLAC__STREAM_ENCODER_SEEK_STATUS_OK
}

unsafe extern "C" fn tell<S: Sink>(
    _: *const ffi::FLAC__StreamEncoder,
    at: *mut u64,
    state: *mut c_void,
) -> ffi::FLAC__StreamEncoderTellStatus {
    // SAFETY: as in `write`; `at` points to a number that libFLAC wants to be set.
    unsafe { *at = (*state.cast::<State<S>>()).at };
    ffi::FLAC__STREAM_ENCODER_TELL_STATUS_OK
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Collect {
        bytes: Vec<u8>,
        frames: u32,
        fails_at: u64,
    }

    impl Sink for Collect {
        fn write(&mut self, at: u64, bytes: &[u8], frame: bool) -> io::Result<()> {
            if at >= self.fails_at {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let end = at as usize + bytes.len();
            self.bytes.resize(self.bytes.len().max(end), 0);
            self.bytes[at as usize..end].copy_from_slice(bytes);
            self.frames += u32::from(frame);
            Ok(())
        }
    }

    fn encoded(fails_at: u64) -> io::Result<Collect> {
        let settings = Settings {
            channels: 1,
            bits: 16,
            rate: 8000,
            samples: 5000,
            block: 1024,
            level: 5,
            application: (*b"test", b"content"),
            seek_points: &[0, 1024],
        };
        let sink = Collect { bytes: Vec::new(), frames: 0, fails_at };
        let mut encoder = Encoder::new(&settings, sink)?;
        let samples: Vec<i32> = (0..5000).map(|n| (n * 7919) % 3000).collect();
        samples.chunks(777).try_for_each(|part| encoder.encode(part))?;
        encoder.finish()
    }

    #[test]
    fn a_whole_file_comes_out_or_the_error_of_who_takes_it() {
        let whole = encoded(u64::MAX).unwrap();
        assert_eq!((&whole.bytes[..4], whole.frames), (&b"fLaC"[..], 5));
        // Total samples, and an MD5 that was written in the end.
        assert_eq!(whole.bytes[22..26], 5000u32.to_be_bytes());
        assert_ne!(whole.bytes[26..42], [0; 16]);
        for fails_at in [0, 4, 100] {
            let error = encoded(fails_at).err().map(|e| e.kind());
            assert_eq!(error, Some(io::ErrorKind::StorageFull), "{fails_at}");
        }
    }
}
