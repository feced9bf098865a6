//! Errors as numbers. The only place where they are.

use crate::catalog::CatalogError;
use crate::recording::ErrorClass;
use crate::vfs::VfsError;
use fuser::Errno;

/// The number the kernel is told.
pub(super) fn errno(error: &VfsError) -> Errno {
    match error {
        VfsError::Kernel(errno) => Errno::from_i32(errno.raw_os_error()),
        VfsError::Catalog(CatalogError::LogFull { .. }) => Errno::EAGAIN,
        VfsError::Catalog(
            CatalogError::Unusable { .. }
            | CatalogError::Newer { .. }
            | CatalogError::Locked { .. }
            | CatalogError::Io { .. },
        ) => Errno::EIO,
        VfsError::Remote(remote) if remote.class == ErrorClass::Sealed => Errno::EACCES,
        VfsError::Remote(_) | VfsError::Overloaded | VfsError::MustWait(_) => Errno::EIO,
    }
}
