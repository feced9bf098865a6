//! Recordings as the bytes that are kept of them while they are not looked at.
//!
//! **Invariant:** what is unpacked is what was packed. Only this process reads what it wrote.

use super::history::{Content, Object, Recording};
use crate::catalog::{Attributes, ObjectState};
use crate::clock::Timestamp;
use crate::recording::{Attr, ChunkHashes, Encoding, Kind, Sha256, Stored};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes being packed.
#[derive(Debug, Default)]
struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    fn time(&mut self, at: Timestamp) {
        self.number(at.0.cast_unsigned());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn option<T>(&mut self, value: Option<T>, pack: impl FnOnce(&mut Out, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            pack(self, value);
        }
    }

    fn all<T>(&mut self, values: impl ExactSizeIterator<Item = T>, pack: impl Fn(&mut Out, T)) {
        self.number(values.len() as u64);
        values.for_each(|value| pack(self, value));
    }
}

/// Bytes being unpacked.
#[derive(Debug)]
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn some(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.some(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.some(8)?.try_into().ok()?))
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp(self.number()?.cast_signed()))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        self.some(len)
    }

    fn owned(&mut self) -> Option<Vec<u8>> {
        self.bytes().map(<[u8]>::to_vec)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.owned()?).ok()
    }

    fn digest(&mut self) -> Option<Sha256> {
        Sha256::from_slice(self.some(32)?)
    }

    /// `None`: it can not be unpacked. `Some(None)`: there is none.
    fn option<T>(&mut self, unpack: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            _ => unpack(self).map(Some),
        }
    }

    fn all<T, C: FromIterator<T>>(&mut self, unpack: impl Fn(&mut Self) -> Option<T>) -> Option<C> {
        (0..self.number()?).map(|_| unpack(self)).collect()
    }
}

/// Packs a recording.
pub(super) fn pack(one: &Recording) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(512));
    out.all(one.names.iter(), |out, name| out.bytes(name));
    out.bytes(&one.last_path);
    out.option(one.deleted, |out, (epoch, at)| {
        out.number(epoch);
        out.time(at);
    });
    out.0.push(u8::from(one.trash));
    out.all(one.contents.iter(), |out, (number, content)| {
        out.number(u64::from(*number));
        pack_content(out, content);
    });
    out.option(one.attributes.as_ref(), pack_attributes);
    out.all(one.xattrs.iter(), |out, (name, value)| {
        out.bytes(name);
        out.bytes(value);
    });
    out.time(one.heard);
    out.0
}

/// The inverse of `pack`.
pub(super) fn unpack(bytes: &[u8]) -> Option<Recording> {
    let mut from = In(bytes);
    Some(Recording {
        names: from.all::<_, BTreeSet<_>>(In::owned)?,
        last_path: from.owned()?,
        deleted: from.option(|from| Some((from.number()?, from.time()?)))?,
        trash: from.byte()? != 0,
        contents: from
            .all::<_, BTreeMap<_, _>>(|from| Some((from.small()?, unpack_content(from)?)))?,
        attributes: from.option(unpack_attributes)?,
        xattrs: from.all::<_, Vec<_>>(|from| Some((from.owned()?, from.owned()?)))?,
        heard: from.time()?,
    })
}

fn pack_content(out: &mut Out, content: &Content) {
    out.0.extend_from_slice(&content.sha256.0);
    out.bytes(&content.chunks.to_bytes());
    out.number(content.size);
    out.time(content.mtime);
    out.option(content.archived_at, Out::time);
    out.all(content.objects.iter(), |out, ((target, key), object)| {
        out.bytes(target.as_bytes());
        out.bytes(key.as_bytes());
        out.0.push(match object.state {
            ObjectState::Assigned => 1,
            ObjectState::Verified => 2,
            ObjectState::Abandoned => 3,
        });
        let plain = Stored::plain(content.size, content.sha256);
        out.option((object.stored != plain).then_some(&object.stored), pack_stored);
    });
}

fn unpack_content(from: &mut In<'_>) -> Option<Content> {
    let sha256 = from.digest()?;
    let chunks = ChunkHashes::from_bytes(from.bytes()?)?;
    let (size, mtime) = (from.number()?, from.time()?);
    let archived_at = from.option(In::time)?;
    let objects = from.all::<_, BTreeMap<_, _>>(|from| {
        let name = (from.text()?, from.text()?);
        let state = match from.byte()? {
            1 => ObjectState::Assigned,
            2 => ObjectState::Verified,
            _ => ObjectState::Abandoned,
        };
        let stored = from.option(unpack_stored)?;
        let stored = stored.unwrap_or_else(|| Stored::plain(size, sha256));
        Some((name, Object { state, stored }))
    })?;
    Some(Content { sha256, chunks, size, mtime, archived_at, objects })
}

fn pack_stored(out: &mut Out, stored: &Stored) {
    out.bytes(stored.encoding.to_string().as_bytes());
    out.number(stored.size);
    out.0.extend_from_slice(&stored.sha256.0);
}

fn unpack_stored(from: &mut In<'_>) -> Option<Stored> {
    let (encoding, size) = (from.text()?, from.number()?);
    let encoding = Encoding::parse(&encoding, size).ok()?;
    Some(Stored { encoding, size, sha256: from.digest()? })
}

fn pack_attributes(out: &mut Out, a: &Attributes) {
    [a.mode, a.uid, a.gid].into_iter().for_each(|n| out.number(u64::from(n)));
    out.number(a.size);
    out.time(a.mtime);
    out.time(a.atime);
}

fn unpack_attributes(from: &mut In<'_>) -> Option<Attributes> {
    Some(Attributes {
        mode: from.small()?,
        uid: from.small()?,
        gid: from.small()?,
        size: from.number()?,
        mtime: from.time()?,
        atime: from.time()?,
    })
}

/// Packs what `stat` shows of a regular file.
pub(super) fn pack_file(a: &Attr) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(96));
    [a.mode, a.uid, a.gid, a.nlink, a.rdev, a.special]
        .into_iter()
        .for_each(|n| out.number(u64::from(n)));
    out.number(a.size);
    out.number(a.blocks);
    [a.mtime, a.atime, a.ctime].into_iter().for_each(|at| out.time(at));
    out.0
}

/// The inverse of `pack_file`.
pub(super) fn unpack_file(bytes: &[u8]) -> Option<Attr> {
    let mut from = In(bytes);
    let mut small = || from.small();
    let (mode, uid, gid) = (small()?, small()?, small()?);
    let (nlink, rdev, special) = (small()?, small()?, small()?);
    let (size, blocks) = (from.number()?, from.number()?);
    let (mtime, atime, ctime) = (from.time()?, from.time()?, from.time()?);
    let kind = Kind::File;
    Some(Attr { kind, mode, uid, gid, size, mtime, atime, ctime, nlink, rdev, blocks, special })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        let sha256 = Sha256::of(b"a");
        let patched = Encoding::parse("patched:0=52494646", 20).unwrap();
        let stored = |encoding| Stored { encoding, size: 20, sha256: Sha256::of(b"b") };
        let object = |state, stored| Object { state, stored };
        let plain = Stored::plain(7, sha256);
        let objects = BTreeMap::from([
            (("one".to_owned(), "a/ü".to_owned()), object(ObjectState::Verified, plain.clone())),
            (("two".to_owned(), "a/ü".to_owned()), object(ObjectState::Assigned, plain)),
            (
                ("two".to_owned(), "b".to_owned()),
                object(ObjectState::Abandoned, stored(Encoding::Flac(None))),
            ),
            (("one".to_owned(), "c".to_owned()), object(ObjectState::Verified, stored(patched))),
        ]);
        let content = |objects, archived_at| Content {
            sha256,
            chunks: ChunkHashes(vec![sha256, Sha256::of(b"c")]),
            size: 7,
            mtime: Timestamp(-3),
            archived_at,
            objects,
        };
        Recording {
            names: BTreeSet::from([b"a\xff".to_vec(), b"b/c".to_vec()]),
            last_path: b"b/c".to_vec(),
            deleted: Some((4, Timestamp(9))),
            trash: true,
            contents: BTreeMap::from([
                (1, content(BTreeMap::new(), None)),
                (7, content(objects, Some(Timestamp(1)))),
            ]),
            attributes: Some(Attributes {
                mode: 0o640,
                uid: 1,
                gid: 2,
                size: 3,
                mtime: Timestamp(4),
                atime: Timestamp(i64::MAX),
            }),
            xattrs: vec![(b"user.a".to_vec(), Vec::new())],
            heard: Timestamp(11),
        }
    }

    #[test]
    fn a_recording_comes_back_as_it_was_packed() {
        for one in [Recording::default(), recording()] {
            let bytes = pack(&one);
            assert_eq!(format!("{:?}", unpack(&bytes).unwrap()), format!("{one:?}"));
            for end in 0..bytes.len() {
                assert!(unpack(&bytes[..end]).is_none(), "cut at {end}");
            }
        }
    }
}
