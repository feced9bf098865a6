//! Every bound in one place: a queue, buffer, cache or retry without an entry here is a fault.

use std::time::Duration;

/// Threads that answer kernel requests in plain mode.
pub const FUSE_THREADS: usize = 4;
/// Threads for requests that may wait: fsync, large unlinks, remote reads, opens that recall.
pub const WORKER_THREADS: usize = 8;
/// Requests that may wait for a worker; one more is answered EIO at once.
pub const WORKER_QUEUE_MAX: usize = 1024;
/// Bytes of undrained operation log at which the catalog counts as unusable.
pub const OPERATION_LOG_BYTES_MAX: u64 = 64 << 20;
/// Log records applied in one catalog transaction.
pub const CATALOG_BATCH_MAX: usize = 512;
/// Catalog write-ahead log pages at which a background checkpoint starts.
pub const CATALOG_WAL_PAGES: u32 = 2000;
/// Bytes set aside beside the catalog so that a full disk can still be relieved.
pub const CATALOG_BALLAST_BYTES: u64 = 8 << 20;
/// Node rows kept in memory.
pub const NODE_CACHE_ROWS: u64 = 50_000;
/// Objects up to this size are sent in one request; larger ones in parts.
pub const SINGLE_PUT_BYTES_MAX: u64 = 8 << 20;
/// Size of each part of a multipart upload but the last.
pub const PART_BYTES: u64 = 8 << 20;
/// Uploads in flight over all targets.
pub const UPLOADS_IN_FLIGHT: usize = 4;
/// Longest wait between two tries at the same work.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Shortest wait between two tries at the same work.
pub const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest object key, in bytes (S3's limit).
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest component of an object key, in bytes (NAME_MAX of a `file://` target).
pub const KEY_COMPONENT_BYTES_MAX: usize = 255;
/// A quiet time after the last close before a recording is hashed.
pub const SETTLE: Duration = Duration::from_secs(2);
/// A file is removed on a worker, not in the request, from this size up.
pub const LARGE_UNLINK_BYTES: u64 = 16 << 20;
/// Rows in one page of a listing of a target.
pub const LIST_PAGE_MAX: usize = 1000;
/// Bytes asked for at once when an object is read back.
pub const READ_BACK_BYTES: u64 = 4 << 20;
/// Longest journal segment that is read.
pub const JOURNAL_SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Longest wait for a connection to an S3 service.
pub const S3_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the answer to an S3 request, beside the time its body takes.
pub const S3_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A line slower than this counts as down.
pub const S3_SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;
/// Idle connections kept to an S3 service.
pub const S3_IDLE_CONNECTIONS: usize = 16;
/// S3 clients kept by one target, one for each runtime that uses it.
pub const S3_CLIENTS: usize = 4;
/// Uploads in parts whose expected checksum is remembered until they are verified.
pub const S3_COMPOSITES: u64 = 256;
/// Pages of unfinished uploads looked through at one start.
pub const ORPHAN_PAGES_MAX: usize = 100;
/// Longest answer accepted from a service that ignores ranges.
pub const WHOLE_ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Pages without a row that are passed over in one listing.
pub const EMPTY_PAGES_MAX: usize = 100;
