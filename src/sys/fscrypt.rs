//! The kernel's encryption of directories (linux/fscrypt.h, Documentation/filesystems/fscrypt.rst):
//! which policy a directory has, and which keys a file system has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use zeroize::Zeroize;

/// Bytes of a key: as many as the kernel takes at most.
pub const KEY_BYTES: usize = 64;

/// The name of a key, which the kernel derives from the key itself (HKDF-SHA512).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyName(pub [u8; 16]);

/// What is known of a directory's encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// None.
    None,
    /// What is in it is encrypted, with keys derived from this one.
    Key(KeyName),
    /// Encrypted in a way from before Linux 5.4, which spoolfs neither makes nor unlocks.
    Old,
}

const POLICY_V2: u8 = 2;
const AES_256_XTS: u8 = 1;
const AES_256_CTS: u8 = 4;
/// Names are padded to a multiple of 32 bytes.
const PAD_32: u8 = 3;
const BY_NAME: u32 = 2;
const PRESENT: u32 = 2;

#[repr(C)]
struct PolicyV2 {
    version: u8,
    contents: u8,
    names: u8,
    flags: u8,
    reserved: [u8; 4],
    key: [u8; 16],
}

#[repr(C)]
struct GetPolicy {
    size: u64,
    policy: PolicyV2,
}

#[repr(C)]
struct Specifier {
    kind: u32,
    reserved: u32,
    name: [u8; 32],
}

#[repr(C)]
struct AddKey {
    spec: Specifier,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
    raw: [u8; KEY_BYTES],
}

#[repr(C)]
struct RemoveKey {
    spec: Specifier,
    status: u32,
    reserved: [u32; 5],
}

#[repr(C)]
struct KeyStatus {
    spec: Specifier,
    reserved: [u32; 6],
    status: u32,
    flags: u32,
    users: u32,
    reserved_out: [u32; 13],
}

/// The numbers carry the size of the fixed part; of a policy that of its first version, or of the
/// 9 bytes that tell which version it is.
const SET_POLICY: libc::Ioctl = libc::_IOR::<[u8; 12]>(b'f' as u32, 19);
const GET_POLICY_EX: libc::Ioctl = libc::_IOWR::<[u8; 9]>(b'f' as u32, 22);
const ADD_KEY: libc::Ioctl = libc::_IOWR::<[u8; size_of::<AddKey>() - KEY_BYTES]>(b'f' as u32, 23);
const REMOVE_KEY: libc::Ioctl = libc::_IOWR::<RemoveKey>(b'f' as u32, 24);
const KEY_STATUS: libc::Ioctl = libc::_IOWR::<KeyStatus>(b'f' as u32, 26);

fn ioctl<T>(dir: impl AsFd, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: every caller in this file passes the structure that the request is defined for, in
    // the layout of linux/fscrypt.h; it is borrowed for the call.
    let result =
        unsafe { libc::ioctl(dir.as_fd().as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn by_name(key: KeyName) -> Specifier {
    let mut name = [0; 32];
    name[..16].copy_from_slice(&key.0);
    Specifier { kind: BY_NAME, reserved: 0, name }
}

/// The policy of an open directory or file.
///
/// # Errors
/// As `ioctl`; a file system that knows no policies has none.
pub fn policy(dir: impl AsFd) -> io::Result<Policy> {
    let policy =
        PolicyV2 { version: 0, contents: 0, names: 0, flags: 0, reserved: [0; 4], key: [0; 16] };
    let mut argument = GetPolicy { size: size_of::<PolicyV2>() as u64, policy };
    match ioctl(dir, GET_POLICY_EX, &mut argument) {
        Ok(()) if argument.policy.version == POLICY_V2 => {
            Ok(Policy::Key(KeyName(argument.policy.key)))
        }
        Ok(()) => Ok(Policy::Old),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENODATA | libc::ENOTTY | libc::EOPNOTSUPP) => Ok(Policy::None),
            _ => Err(error),
        },
    }
}

/// Has everything encrypted that will be made in an empty directory: contents with AES-256-XTS,
/// names with AES-256-CTS.
///
/// # Errors
/// As `ioctl`: `ENOTEMPTY`; `ENOKEY` if the file system does not have the key; `EOPNOTSUPP` or
/// `ENOTTY` if it can not encrypt; `EPERM` for the root of a file system.
pub fn set_policy(dir: impl AsFd, key: KeyName) -> io::Result<()> {
    let (contents, names, flags) = (AES_256_XTS, AES_256_CTS, PAD_32);
    let (version, reserved) = (POLICY_V2, [0; 4]);
    let mut policy = PolicyV2 { version, contents, names, flags, reserved, key: key.0 };
    ioctl(dir, SET_POLICY, &mut policy)
}

/// Gives a key to the file system that `dir` is on, until it is unmounted. All processes can use
/// it. One that is there stays.
///
/// # Errors
/// As `ioctl`: `EOPNOTSUPP` or `ENOTTY` if the file system can not encrypt.
pub fn add_key(dir: impl AsFd, key: &[u8; KEY_BYTES]) -> io::Result<KeyName> {
    let spec = Specifier { kind: BY_NAME, reserved: 0, name: [0; 32] };
    let raw_size = KEY_BYTES as u32;
    let mut argument = AddKey { spec, raw_size, key_id: 0, reserved: [0; 8], raw: *key };
    let result = ioctl(dir, ADD_KEY, &mut argument);
    argument.raw.zeroize();
    let mut name = [0; 16];
    name.copy_from_slice(&argument.spec.name[..16]);
    result.map(|()| KeyName(name))
}

/// Takes a key away from the file system that `dir` is on.
///
/// # Errors
/// As `ioctl`: `ENOKEY` if it is not there.
pub fn remove_key(dir: impl AsFd, key: KeyName) -> io::Result<()> {
    ioctl(dir, REMOVE_KEY, &mut RemoveKey { spec: by_name(key), status: 0, reserved: [0; 5] })
}

/// Whether the file system that `dir` is on has a key.
///
/// # Errors
/// As `ioctl`.
pub fn has_key(dir: impl AsFd, key: KeyName) -> io::Result<bool> {
    let mut argument = KeyStatus {
        spec: by_name(key),
        reserved: [0; 6],
        status: 0,
        flags: 0,
        users: 0,
        reserved_out: [0; 13],
    };
    ioctl(dir, KEY_STATUS, &mut argument).map(|()| argument.status == PRESENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_the_kernel() {
        // Of linux/fscrypt.h, printed by a program in C.
        assert_eq!(SET_POLICY as u32, 0x800c_6613);
        assert_eq!(GET_POLICY_EX as u32, 0xc009_6616);
        assert_eq!(ADD_KEY as u32, 0xc050_6617);
        assert_eq!(REMOVE_KEY as u32, 0xc040_6618);
        assert_eq!(KEY_STATUS as u32, 0xc080_661a);
        assert_eq!((size_of::<PolicyV2>(), size_of::<GetPolicy>()), (24, 32));
    }

    #[test]
    fn what_can_not_be_encrypted_has_no_policy() {
        let proc = std::fs::File::open("/proc").unwrap();
        assert_eq!(policy(&proc).unwrap(), Policy::None);
    }
}
