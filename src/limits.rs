//! Every bound in one place: a queue, buffer, cache or retry without an entry here is a fault.

use std::time::Duration;

/// Threads that answer kernel requests in plain mode.
pub const FUSE_THREADS: usize = 4;
/// Threads for requests that may wait for the local disk: fsync, large unlinks.
pub const WORKER_THREADS: usize = 8;
/// Threads for requests that may wait for a target. Each reader that waits takes one: those of a
/// target that hangs must not keep others from what the cache has.
pub const ARCHIVE_THREADS: usize = 64;
/// Requests that may wait for a worker; one more is answered EIO at once.
pub const WORKER_QUEUE_MAX: usize = 1024;
/// Bytes of undrained operation log at which the catalog counts as unusable.
pub const OPERATION_LOG_BYTES_MAX: u64 = 64 << 20;
/// How soon what was closed is on the disk, unless configured.
pub const SYNC_AFTER: Duration = Duration::from_secs(5);
/// How often recordings in progress are written out.
pub const WRITE_OUT_EVERY: Duration = Duration::from_secs(30);
/// Files and directories remembered that are to be synced; with more, the whole file system is.
pub const UNSYNCED_MAX: usize = 65_536;
/// Files open at once to be synced.
pub const SYNC_FILES_OPEN: usize = 512;
/// Threads that sync a batch, so that the disk empties its own cache once for several files.
pub const SYNC_THREADS: usize = 8;
/// Directories synced one by one at a time; with more, the whole file system is.
pub const SYNC_DIRS_MAX: usize = 16;
/// Longest that the release of a recording waits while it is being synced.
pub const SYNC_CLAIM_WAIT: Duration = Duration::from_secs(2);
/// Directories of a `file://` target that are remembered as synced.
pub const SYNCED_DIRS_MAX: usize = 4096;
/// Pause after what can not be synced now.
pub const SYNC_REST: Duration = Duration::from_secs(1);
/// Times of files that are older than this are not those of a change that goes on: file systems stamp
/// with the time of the last tick of the kernel's clock.
pub const SETUP_STAMP_AGE: Duration = Duration::from_millis(50);
/// How often and how long apart `setup-encryption` looks whether files are still being written.
pub const SETUP_BUSY_LOOKS: u32 = 60;
/// See there.
pub const SETUP_BUSY_WAIT: Duration = Duration::from_secs(1);
/// Files that a report of a command names of each kind; the others are counted.
pub const REPORT_PATHS_MAX: usize = 10_000;
/// Log records applied in one catalog transaction.
pub const CATALOG_BATCH_MAX: usize = 512;
/// Catalog write-ahead log pages at which a background checkpoint starts.
pub const CATALOG_WAL_PAGES: u32 = 2000;
/// Bytes set aside beside the catalog so that a full disk can still be relieved.
pub const CATALOG_BALLAST_BYTES: u64 = 8 << 20;
/// Bytes of the catalog's write-ahead log that have their room on the disk before they are written:
/// more than are written between two checkpoints.
pub const CATALOG_WAL_ROOM_BYTES: u64 = 12 << 20;
/// Idle connections that read the catalog.
pub const CATALOG_READERS_MAX: usize = 8;
/// Changed nodes that are remembered for who looks after what was made of them.
pub const CHANGED_NODES_MAX: usize = 65_536;
/// Transactions that may wait for the catalog thread; one more is answered at once.
pub const CATALOG_JOBS_MAX: usize = 256;
/// Longest that a transaction waits while another program locks the catalog.
pub const CATALOG_JOB_WAIT: Duration = Duration::from_secs(2);
/// Size of an operation log segment at which the next one begins.
pub const OPERATION_LOG_SEGMENT_BYTES: u64 = 4 << 20;
/// Catalogs set aside as garbage that are kept.
pub const CATALOG_CORRUPT_MAX: usize = 3;
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
/// Recordings in a row that a target refuses before it counts as down.
pub const DENIED_MAX: usize = 3;
/// Recordings that wait for the hashing thread.
pub const HASH_QUEUE_MAX: usize = 32;
/// Bytes hashed in a second, so that calls have the disk.
pub const HASH_BYTES_PER_SECOND: u64 = 64 << 20;
/// Bytes of a recording that is stored as FLAC that are no samples, before and behind them.
pub const FLAC_AROUND_BYTES_MAX: u64 = 16 << 10;
/// Bytes of a FLAC object that are read first to see where its frames begin.
pub const FLAC_HEAD_BYTES: u64 = 16 << 10;
/// Bytes before the first frame of a FLAC object: enough for a call of days.
pub const FLAC_HEAD_BYTES_MAX: u64 = 4 << 20;
/// Keys that recordings are sealed to.
pub const SEAL_RECIPIENTS_MAX: usize = 20;
/// Bytes of an age file before its first block: more than so many keys need.
pub const SEAL_HEAD_BYTES_MAX: u64 = 16 << 10;
/// How long a command that prints secret keys may take, and after how long one that failed is run again.
pub const SECRET_COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// See `SECRET_COMMAND_TIMEOUT`.
pub const SECRET_COMMAND_AGAIN: Duration = Duration::from_secs(60);
/// Bytes of a file with secret keys: more than anybody has.
pub const SECRET_BYTES_MAX: u64 = 64 << 10;
/// Recordings that wait for an upload thread.
pub const ARCHIVE_QUEUE_MAX: usize = 16;
/// Groups that wait for the release thread.
pub const RELEASE_QUEUE_MAX: usize = 16;
/// Of so many recordings that are handed over to be archived one is taken from the newest that are
/// due, so that a backlog does not hold today's back.
pub const NEWEST_ONE_IN: usize = 4;
/// Oldest due recordings looked at first in one step of planning.
pub const OLDEST_ROWS: usize = 64;
/// What legal holds refused and is not on record yet; of more, only how many are told.
pub const HOLD_REFUSALS_MAX: usize = 1024;
/// Refusals in a minute that are put on record one by one; the others are summed up.
pub const HOLD_REFUSALS_NAMED: usize = 60;
/// Users and operations that refusals of a minute are summed up by.
pub const HOLD_REFUSAL_SUMS: usize = 64;
/// Recordings on legal hold looked at in one step of planning.
pub const HELD_ROWS: usize = 64;
/// Newest due recordings looked at in one step of planning; more than can be under way.
pub const NEWEST_ROWS: usize = 64;
/// A recording that waits so long after its time came is part of a backlog.
pub const BACKLOG_LATE: Duration = Duration::from_secs(60);
/// How often it is counted what waits to be archived.
pub const DRAIN_SAMPLE_EVERY: Duration = Duration::from_secs(30);
/// How many of these counts are kept: the rate is that of the last five minutes.
pub const DRAIN_SAMPLES: usize = 10;
/// A shorter time tells nothing of a rate.
pub const DRAIN_TOO_EARLY: Duration = Duration::from_secs(5);
/// Recordings of which is remembered what the rules ask of their calls.
pub const KNOWN_CALLS_MAX: usize = 100_000;
/// Rules in the configuration.
pub const POLICIES_MAX: usize = 1000;
/// Hundredths of all files that rules may delete in a day, unless configured.
pub const DELETED_IN_A_DAY_PERCENT: u8 = 5;
/// How long what users deleted stays in the trash, unless configured.
pub const TRASH_KEEP: Duration = Duration::from_secs(30 * 86_400);
/// Recordings remembered that expire before all are looked at again.
pub const EXPIRE_SOON_MAX: usize = 100_000;
/// How long `spoolfs retention run` waits for a look that is under way.
pub const EXPIRE_TURN_WAIT: Duration = Duration::from_secs(20);
/// Pause before each group that expires, so that targets have other things to do, too.
pub const EXPIRE_PAUSE: Duration = Duration::from_millis(10);
/// The objects of what expired go so long after its name: who is listening to it hears it out.
pub const EXPIRED_GRACE: Duration = Duration::from_secs(600);
/// Recordings that are pinned.
pub const PINS_MAX: usize = 100_000;
/// Rows of the catalog looked at in one step of planning, for each kind of step.
pub const PLAN_PAGE_ROWS: usize = 256;
/// Files in the trash that had one stem and are looked at together.
pub const TRASH_GROUP_MAX: usize = 1000;
/// Recordings put off for a moment without an entry in the catalog.
pub const PUT_OFF_MAX: usize = 1024;
/// Names looked at below before the reconciler rests.
pub const RECONCILE_BATCH: usize = 64;
/// Names that could not be taken over and are remembered to be tried again; of more, all is compared.
pub const RECONCILE_LEFT_OUT_MAX: usize = 1024;
/// Longest time until all is compared again because of them.
pub const RECONCILE_REST_MAX: Duration = Duration::from_secs(6 * 3600);
/// Names tried for one generation in one target, besides the plain one.
pub const KEY_CANDIDATES: usize = 4;
/// Recordings whose sealed or smaller form is kept for the next try after a target failed.
pub const UNSENT_MAX: usize = 16;
/// Bytes of the lower file system that these take.
pub const UNSENT_BYTES_MAX: u64 = 256 << 20;
/// Sealed segments that are known again if it turns out that one of them was put.
pub const JOURNAL_ATTEMPTS_REMEMBERED: usize = 64;
/// Rows in one journal segment.
pub const JOURNAL_SEGMENT_ROWS_MAX: usize = 500;
/// Bytes of lines at which a journal segment ends.
pub const JOURNAL_SEGMENT_BYTES: usize = 16 << 20;
/// Journal rows kept for targets that have not got them; the oldest are given up.
pub const JOURNAL_ROWS_MAX: u64 = 1_000_000;
/// Time that uploads in flight have left when the daemon stops.
pub const STOP_GRACE: Duration = Duration::from_secs(3);
/// Threads of one `archive`, `release` or `recall` command.
pub const COMMAND_THREADS: usize = 4;
/// Time that a command waits for another step with the same recording.
pub const COMMAND_CLAIM_WAIT: Duration = Duration::from_secs(60);
/// Bytes of the lower file system that recalls and the disk cache leave free for calls in
/// progress, unless configured.
pub const RESERVE_BYTES: u64 = 1 << 30;
/// A disk that is too full and has had nothing to release for so long is stuck.
pub const SPACE_STUCK_AFTER: Duration = Duration::from_secs(10);
/// How often that is said.
pub const SPACE_SAY_EVERY: Duration = Duration::from_secs(600);
/// Time that the recall of an empty recording may take, when nobody said how long he can wait.
pub const RECALL_WAIT: Duration = Duration::from_secs(60);
/// Slowest rate at which a recall on request is waited for.
pub const RECALL_BYTES_PER_SECOND: u64 = 256 << 10;
/// Threads that fetch what partial recordings lack.
pub const COMPLETE_THREADS: usize = 2;
/// How often it is looked whether there are partial recordings to be tried again.
pub const COMPLETE_LOOK: Duration = Duration::from_secs(1);
/// Longest wait between two tries to complete a recording: it is not archived before.
pub const COMPLETE_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Bytes fetched into a partial recording until they are written out, so that the writes of the
/// call that goes on in it need not wait for the disk.
pub const COMPLETE_WRITE_OUT_BYTES: u64 = 4 << 20;
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
/// Longest wait for a connection to a target's service.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the answer to a request to one, beside the time its body takes.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A line slower than this counts as down.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 32 << 10;
/// Idle connections kept to the service of a target.
pub const IDLE_CONNECTIONS: usize = 16;
/// Clients kept by one target, one for each runtime that uses it.
pub const CLIENTS: usize = 4;
/// Uploads in parts whose expected checksum is remembered until they are verified.
pub const S3_COMPOSITES: u64 = 256;
/// Keys of SSE-C that a target has: each is tried with an object that the others do not open.
pub const SSE_C_KEYS_MAX: usize = 16;
/// Objects of which it is remembered which of these keys opens them: some 200 bytes each.
pub const SSE_C_OPENED: u64 = 10_000;
/// Pages of unfinished uploads looked through at one start.
pub const ORPHAN_PAGES_MAX: usize = 100;
/// Longest answer accepted from a service that ignores ranges.
pub const WHOLE_ANSWER_BYTES_MAX: u64 = 8 << 20;
/// Listings of Azure that can be gone on with where they ended, for each target.
pub const OPEN_LISTINGS: usize = 8;
/// Pages without a row that are passed over in one listing.
pub const EMPTY_PAGES_MAX: usize = 100;
/// Longest wait for a read of a released recording, unless configured.
pub const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a read that can be configured.
pub const READ_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Chunks asked for ahead of the one that is waited for, when all of a recording is fetched.
pub const CHUNKS_AHEAD: usize = 16;
/// Requests for content to one target at the same time.
pub const FETCHES_IN_FLIGHT: usize = 16;
/// Adjacent chunks are asked for together up to this size: a server works for each request, and for
/// each connection.
pub const FETCH_BYTES_MAX: u64 = 4 << 20;
/// A recording up to this size is fetched whole by the first read.
pub const SMALL_FILE_BYTES: u64 = 256 << 10;
/// So many ends of recordings come with their heads, because both were read of others before, until one
/// is looked at again.
pub const ENDS_AHEAD_MAX: u8 = 4;
/// Bytes fetched ahead of one who reads on, at first...
pub const AHEAD_BYTES_FIRST: u64 = 2 << 20;
/// ...and at most.
pub const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// So much of that is asked for at a time, so that the rest is still on its way meanwhile.
pub const AHEAD_STEP_BYTES: u64 = 4 << 20;
/// One who has read so much in a row...
pub const STREAM_RUN_BYTES: u64 = 1 << 20;
/// ...as quickly as this, in bytes a second, gets what follows in one request that goes on as he reads:
/// no listener is as quick, and no slow line.
pub const STREAM_RATE: f64 = (4 << 20) as f64;
/// Where so much arrives within [`AHEAD_SOON`], who begins with [`LARGE_READ_BYTES`] gets it at once: what
/// the socket holds when he stops has come in no time to speak of.
pub const STREAM_SOON_BYTES: u64 = 4 << 20;
/// What he will want is added to it in steps of this size.
pub const STREAM_STEP_BYTES: u64 = 1 << 20;
/// Chunks that must follow for it to be worth while: 4 MiB...
pub const STREAM_CHUNKS_MIN: u64 = 16;
/// ...and that it brings at most: 64 MiB.
pub const STREAM_CHUNKS_MAX: u64 = 256;
/// Such requests under way at a time: half of [`FETCHES_IN_FLIGHT`], so that those whose readers have
/// stopped keep nobody waiting.
pub const STREAMS_MAX: usize = 8;
/// How long it waits for a reader who has stopped. Meanwhile the server does.
pub const STREAM_PATIENCE: Duration = Duration::from_secs(1);
/// One who has read so much from the beginning on means to have all of it: the kernel asks for so
/// much at once only for who does.
pub const LARGE_READ_BYTES: u64 = 128 << 10;
/// One who goes on from the beginning at so many bytes a second does not only listen: sixteen times what
/// a call is.
pub const READ_ON_RATE: f64 = (256 << 10) as f64;
/// So much is fetched ahead of him at once as arrives within this time.
pub const AHEAD_SOON: Duration = Duration::from_millis(100);
/// Less is fetched ahead if it takes longer than this to arrive.
pub const AHEAD_ARRIVES: Duration = Duration::from_secs(1);
/// Chunks on their way before anybody asked, for all readers together: 48 MiB.
pub const AHEAD_CHUNKS_MAX: usize = 192;
/// Recordings whose readers are watched.
pub const READERS_WATCHED: u64 = 4096;
/// Readers of one recording that are told apart.
pub const TRACKS_MAX: usize = 4;
/// A read so near to where the last one ended goes on with it: the kernel reads ahead in any order.
pub const READ_ORDER_SLACK: u64 = 128 << 10;
/// Released recordings that one process may begin to read in a minute, unless configured.
pub const RECORDINGS_PER_MINUTE: u32 = 600;
/// A process that begins so many in a minute is a scanner.
pub const SCANS_FROM: u32 = 60;
/// Processes whose reads are counted.
pub const PROCESSES_WATCHED: u64 = 1024;
/// Recordings of a process that are known to have been begun: as many as a web server of one process
/// plays at a time.
pub const SCANNER_RECENT: usize = 256;
/// Longest that a read waits because its process reads too many recordings.
pub const SCANNER_WAIT: Duration = Duration::from_secs(5);
/// Reads of scanners that wait at a time; more go on at once.
pub const SCANNERS_WAITING: usize = 16;
/// Bytes of chunks kept in memory.
pub const MEMORY_BYTES: u64 = 64 << 20;
/// Bytes of a part, where it is not the server that makes them.
pub const ANSWER_PART_BYTES: u64 = 1 << 20;
/// Parts of an answer that wait to be taken.
pub const PARTS_MAX: usize = 4;
/// Bytes of chunk hashes kept in memory.
pub const SOURCES_BYTES: u64 = 16 << 20;
/// How many times smaller FLAC makes a call, for an estimate.
pub const FLAC_USUAL_GAIN: u64 = 2;
/// How long an object stays after another took its place: longer than readers remember it.
pub const REPLACED_STAYS: Duration = Duration::from_secs(3600);
/// How long the copies of a recording are remembered without asking the catalog.
pub const SOURCES_TTL: Duration = Duration::from_secs(60);
/// How long a target that did not answer is left alone by reads.
pub const BREAKER_REST: Duration = Duration::from_secs(5);
/// A read that failed faster than this is tried once more at the same target.
pub const QUICK_FAILURE: Duration = Duration::from_secs(1);
/// Chunks that wait to be written to the disk cache: 64 MiB, most of which is in memory anyway.
pub const CACHE_BEHIND: usize = 256;
/// What waits for the disk cache is written when nothing more has come for so long, or when three
/// quarters of the room for it are taken.
pub const CACHE_PAUSE: Duration = Duration::from_millis(100);
/// How long the disk cache is not written after a failure.
pub const CACHE_REST: Duration = Duration::from_secs(60);
/// Chunks removed from a disk cache at a time, several times a second, while its disk is too full.
pub const CACHE_GIVES_WAY: usize = 128;
/// How often the room on the disk of the cache is looked at.
pub const CACHE_LOOK: Duration = Duration::from_secs(2);
/// Files in the disk cache.
pub const CACHE_ENTRIES_MAX: usize = 200_000;
/// Connections to the control socket at once; one more is told so and closed.
pub const CONTROL_CONNECTIONS_MAX: usize = 16;
/// Length of one request: more paths than the kernel lets a command line hold (2 MiB), quoted.
pub const CONTROL_REQUEST_BYTES_MAX: u64 = 4 << 20;
/// Length of one response that a client reads.
pub const CONTROL_RESPONSE_BYTES_MAX: u64 = 64 << 20;
/// How long a control connection may say nothing, or not take what is said to it.
pub const CONTROL_IDLE: Duration = Duration::from_secs(60);
/// Descriptors that outlive the daemon: how many are kept, and taken back.
pub const KEPT_DESCRIPTORS_MAX: usize = 64;
/// Longest wait for a service manager that does not read its notifications.
pub const NOTIFY_WAIT: Duration = Duration::from_secs(5);
/// Mounts of ours on one directory that are taken away; more are somebody's work in progress.
pub const STACKED_MOUNTS_MAX: usize = 64;
/// Links followed on the way to a mount point, as many as the kernel follows.
pub const LINKS_MAX: usize = 40;
/// Longest wait for `systemctl`.
pub const SERVICE_MANAGER_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether `systemctl` has ended.
pub const SERVICE_MANAGER_LOOK: Duration = Duration::from_millis(2);
/// Failed starts after which the mount is bypassed, if they came
/// within [`KEEPER_FAILURES_WITHIN`].
pub const KEEPER_FAILURES_MAX: usize = 3;
/// How long a failed start counts.
pub const KEEPER_FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// A daemon that ends by itself so soon after it was ready has failed to start.
pub const KEEPER_SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for a daemon that was told to hand over; then it is killed.
pub const KEEPER_HAND_OVER_WAIT: Duration = Duration::from_secs(10);
/// Longest time that a daemon may ask for at once.
pub const KEEPER_EXTENSION_MAX: Duration = Duration::from_secs(3600);
/// How often kept descriptors are looked at for a dead one.
pub const KEEPER_LOOK: Duration = Duration::from_secs(1);
/// Longest notification that is read.
pub const NOTIFICATION_BYTES_MAX: usize = 4096;
/// Parents looked at to find out whether a notification comes from our child.
pub const ANCESTORS_MAX: usize = 32;
/// Longest wait for the service manager to take what it is to keep.
pub const HANDOVER_BARRIER: Duration = Duration::from_secs(2);
/// How long a writer that was taken over may go unused, with its file unchanged, before it no longer
/// keeps its recording from being archived.
pub const IDLE_HANDLE_RESTS_AFTER: Duration = Duration::from_secs(3600);
/// Longest wait for a catalog that can not be used yet, when a mount is taken over.
pub const HANDOVER_CATALOG_WAIT: Duration = Duration::from_secs(2);
/// Processes named that have files open at a stop.
pub const BUSY_NAMED_MAX: usize = 5;
/// Time that the service manager gives a start that goes on with no mount.
pub const FRESH_START_WAIT: Duration = Duration::from_secs(90);
/// Rows that a finding of `fsck` names; it says that there are more.
pub const FSCK_ROWS_NAMED: usize = 20;
/// How many times as fast as planned the scrub makes up for what it missed.
pub const SCRUB_CATCHES_UP: u32 = 4;
/// When a bad copy that was not replaced is looked at again; it rests twice as long each time...
pub const SCRUB_ALARMS_SOON: Duration = Duration::from_secs(10);
/// ...and at most so long.
pub const SCRUB_ALARMS_EVERY: Duration = Duration::from_secs(3600);
/// So often in a row an object is asked for in vain before the one behind it is tried: if that is given, it
/// was not the target.
pub const SCRUB_TRIES: u32 = 3;
/// Objects that are passed over that way at a time.
pub const SCRUB_PASSED_OVER_MAX: u32 = 16;
/// Bad copies that are remembered one by one, and as many that no key opens.
pub const BAD_COPIES_MAX: usize = 1000;
/// Lines of a snapshot of the catalog that are read before others have their turn.
pub const SNAPSHOT_BATCH_LINES: u32 = 256;
/// Longest rest between two such batches.
pub const SNAPSHOT_REST_MAX: Duration = Duration::from_millis(50);
/// Longest snapshot of a catalog, compressed; there is none of a catalog that needs more.
pub const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;
/// Snapshots in one target whose keys are remembered, to be deleted some day.
pub const SNAPSHOTS_REMEMBERED: usize = 1000;
/// Time until a snapshot that came to nothing is tried again.
pub const SNAPSHOT_RETRY: Duration = Duration::from_secs(600);
/// Requests of a rebuild in flight.
pub const REBUILD_REQUESTS: usize = 8;
/// Tries of each request of a rebuild.
pub const REBUILD_TRIES: usize = 3;
/// Wait before the second try; it doubles from try to try.
pub const REBUILD_RETRY: Duration = Duration::from_millis(500);
/// Recordings that a rebuild has in memory at a time; the others are in a file meanwhile.
pub const REBUILD_NEAR: usize = 2048;
/// What a rebuild has in memory of each of the files that it keeps things in meanwhile.
pub const REBUILD_CACHE_BYTES: usize = 32 << 20;
/// Things that a rebuild asks for and hands on in one go.
pub const REBUILD_BATCH: usize = 1000;
/// Places named one by one in the report of a rebuild, of each kind.
pub const REBUILD_NAMED_MAX: usize = 1000;
/// Legs of a join.
pub const STITCH_LEGS_MAX: usize = 256;
/// Recordings, or calls, looked at in one go.
pub const STITCH_LOOK_AHEAD: usize = 256;
/// Recordings that were being recorded when they were looked at, and are again.
pub const STITCH_LATER_MAX: usize = 4096;
/// So many times as many that are remembered are looked at in one go, whether they are still there.
pub const STITCH_FORGET_PAGES: usize = 8;
/// Calls whose legs are looked at in one go for a listing.
pub const STITCH_PAGE: usize = 64;
/// Pages of listings that wait for the next reply.
pub const STITCH_PAGES_AHEAD: usize = 8;
/// Bytes of a join copied at a time.
pub const STITCH_PIECE_BYTES: usize = 1 << 20;
/// Notes of open joins, before those that were closed are left out.
pub const STITCH_NOTES_BYTES: u64 = 1 << 20;
/// How often new recordings are looked at for their formats.
pub const STITCH_LOOK: Duration = Duration::from_secs(10);
/// Pause between two such looks while there are more.
pub const STITCH_PAUSE: Duration = Duration::from_millis(200);

/// Pages of calls that something was heard of, looked at one after another; of more the sweep sees.
pub const JOIN_HEARD_PAGES_MAX: usize = 16;
/// When a stored join that a target refused to delete is tried again.
pub const JOIN_REFUSED_RETRY: Duration = Duration::from_secs(86_400);
/// Calls whose joins can not be stored yet, or stored joins that can not be deleted, that are
/// remembered until they are looked at again.
pub const JOIN_LATER_MAX: usize = 65_536;
/// When a call that is not over, or not archived, is looked at again; longer each time.
pub const JOIN_LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The longest of these times.
pub const JOIN_LOOK_AGAIN_MAX: Duration = Duration::from_secs(3600);
/// How often all calls and all stored joins are looked at, whether anything was heard of them or not.
pub const JOIN_SWEEP_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Longest time that an address given away may be valid: the limit of AWS Signature Version 4.
pub const SHARED_URL_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Longest wait between two tries at a source of call records.
pub const CALL_RETRY_MAX: Duration = Duration::from_secs(60);
/// Longest text of a call record that is kept.
pub const CALL_FIELD_BYTES_MAX: usize = 1024;
/// Rows of a source read, and committed, at once.
pub const CALL_BATCH_ROWS: usize = 2000;
/// Bytes of a file of call records read at once; no line is longer.
pub const CALL_READ_BYTES: usize = 1 << 20;
/// Batches read ahead of what is committed.
pub const CALL_BATCHES_AHEAD: usize = 2;
/// Names beside a file of call records that are looked at for the one it was renamed to.
pub const CALL_ROTATED_MAX: usize = 10_000;
/// Longest wait for a lock of Asterisk's database of call records.
pub const CALL_SQLITE_BUSY: Duration = Duration::from_secs(2);
/// Records of one call; a tie that would make it larger is left out.
pub const CALL_RECORDS_MAX: usize = 10_000;
/// Recordings of one name, or of one call.
pub const CALL_LEGS_MAX: usize = 1000;
/// How near records of the same lead of a dialler are one call.
pub const CALL_LEAD_ADJOINS: Duration = Duration::from_secs(30);
/// How long ago the leg of a call that goes on may have begun.
pub const CALL_LEG_LONGEST: Duration = Duration::from_secs(86_400);
/// Names of the catalog taken into the call records at once.
pub const CALL_NAMES_PAGE: usize = 1000;
/// How often the catalog is asked for new names, at least.
pub const CALL_NAMES_EVERY: Duration = Duration::from_secs(5);
/// How often names of the catalog are looked at again for those that were moved or removed.
pub const CALL_SWEEP_EVERY: Duration = Duration::from_secs(600);
/// After this time a target is given its name key once more: a copy that was deleted there, or moved to
/// an archive class, must not be the only one.
pub const NAME_KEY_TOLD_EVERY: Duration = Duration::from_secs(7 * 86_400);
/// How long who reads the call records waits for a start to open them.
pub const CALL_OPEN_WAIT: Duration = Duration::from_secs(2);
/// Connections that read the call records and are kept.
pub const CALL_READERS_MAX: usize = 4;
/// Room on the disk below which the call records do not grow.
pub const CALL_FREE_MIN: u64 = 256 << 20;
/// Calls, or recordings, in one answer of the call records.
pub const CALL_ANSWER_MAX: usize = 10_000;
/// Bytes of one answer of the client of a database.
pub const CALL_ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Rows of a database that are remembered, so as not to be taken again.
pub const CALL_GIVEN_MAX: usize = 200_000;
/// How often rows of a database are looked at again far back, for those that came late.
pub const CALL_FAR_EVERY: Duration = Duration::from_secs(600);
/// How long `find` waits for what is new.
pub const CALL_REFRESH_WAIT: Duration = Duration::from_secs(2);
/// Bad rows of a source that are named; the others are counted.
pub const CALL_BAD_NAMED: usize = 10;

/// Events that wait to be written to the audit log; of more, the log tells only how many there were.
pub const AUDIT_QUEUE_MAX: usize = 16_384;
/// Events written to the audit log, and synced, at once.
pub const AUDIT_BATCH: usize = 1024;
/// Longest wait for an event to be on the disk, of those that wait for it.
pub const AUDIT_SYNC_WAIT: Duration = Duration::from_secs(30);
/// Pause after the audit log could not be written.
pub const AUDIT_RETRY: Duration = Duration::from_secs(1);
/// With `four_eyes`, how long the second user has to lift a hold.
pub const LIFT_REQUEST_VALID: Duration = Duration::from_secs(7 * 86_400);
/// Requests for legal holds in one target at a time.
pub const LOCKS_IN_FLIGHT: usize = 8;
/// Objects whose legal holds are set or taken off in one step.
pub const LOCKS_STEP: usize = 64;
/// How often it is compared what is held with what is locked in the targets, and targets are asked
/// whether they can.
pub const LOCKS_WALK_EVERY: Duration = Duration::from_secs(3600);
/// How often a legal hold that a target has is read again.
pub const LOCK_SEEN_EVERY: Duration = Duration::from_secs(86_400);
/// What is held provisionally for so long is locked in the targets, too.
pub const LOCK_PROVISIONAL_AFTER: Duration = Duration::from_secs(3600);
/// Objects a second that are locked because a rule came later.
pub const WORM_LATER_PER_SECOND: u64 = 20;
/// Recordings remembered whose legal holds changed; beyond that all are compared.
pub const LOCKS_QUEUE_MAX: usize = 100_000;
/// How long a command waits for targets that were not asked yet since the start.
pub const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(5);
/// How long `hold add` waits to know whether targets can lock objects.
pub const LOCKS_ANSWER_WAIT: Duration = Duration::from_secs(3);
/// An object that another took the place of and that can not be deleted is tried again after this.
pub const LEAVING_REFUSED_RETRY: Duration = Duration::from_secs(3600);
/// So many of them are remembered; before they are through no others are tried.
pub const LEAVING_REFUSED_MAX: usize = 100_000;
/// An object that a target refuses to delete is tried again after this time.
pub const REFUSED_DELETE_RETRY: Duration = Duration::from_secs(86_400);
/// How often it is said that the audit log can not be written.
pub const AUDIT_SAY_EVERY: Duration = Duration::from_secs(60);
/// Size at which the next file of the audit log is begun.
pub const AUDIT_SEGMENT_BYTES: u64 = 8 << 20;
/// Pseudonyms that the event of an erasure names; the others are counted.
pub const AUDIT_ERASED_NAMED: usize = 1000;
/// Findings of a check of the audit log that are named; the others are counted.
pub const AUDIT_FINDINGS_MAX: usize = 100;
/// Longest line of the audit log that is read.
pub const AUDIT_LINE_BYTES_MAX: usize = 16 << 20;
/// How long a stop waits for the last events to be on the disk.
pub const AUDIT_STOP_WAIT: Duration = Duration::from_secs(3);
/// How often targets are told where the audit log ends, if it has grown.
pub const AUDIT_ANCHOR_EVERY: Duration = Duration::from_secs(600);
/// How often targets get lines of the audit log whose file is not full yet.
pub const AUDIT_SHIP_EVERY: Duration = Duration::from_secs(86_400);
/// The shortest time that lines of the audit log can be told to stay (`audit_keep`): the year that
/// PCI DSS 4.0 asks for (requirement 10.5.1).
pub const AUDIT_KEEP_LEAST: Duration = Duration::from_secs(365 * 86_400);
/// Where lines of the audit log leave, a file of it is told to end after this time; one that is full
/// ends sooner.
pub const AUDIT_FILE_AGE: Duration = Duration::from_secs(30 * 86_400);
/// How often it is looked at whether lines of the audit log leave.
pub const AUDIT_LEAVE_EVERY: Duration = Duration::from_secs(3600);
/// A line of the audit log that is dated later than this from now was written when the clock was wrong.
pub const AUDIT_AHEAD: Duration = Duration::from_secs(86_400);
/// Time until a target that could not be told of the audit log is told again, or lines are let leave
/// again; doubled with each failure in a row, up to [`AUDIT_ANCHOR_EVERY`] and [`AUDIT_LEAVE_EVERY`].
pub const AUDIT_ANCHOR_RETRY: Duration = Duration::from_secs(30);
/// How often it is said that one of both still fails.
pub const AUDIT_SAY_AGAIN: Duration = Duration::from_secs(86_400);
/// How often a check of the audit log looks again at an end that may be just being written.
pub const AUDIT_LOOKS: usize = 5;
/// Pause between two such looks.
pub const AUDIT_LOOK_EVERY: Duration = Duration::from_millis(200);
/// Files that the daemon is told of at once while they are imported.
pub const IMPORT_BATCH: usize = 500;
/// How often an import looks whether there is room by now.
pub const IMPORT_LOOK: Duration = Duration::from_secs(1);
/// An import ends when there has been no room and nothing to release for so long.
pub const IMPORT_STUCK: Duration = Duration::from_secs(120);
/// How often `import --move` asks for what is not archived yet.
pub const IMPORT_ARCHIVE_TRIES: usize = 30;
/// Connections for metrics at a time.
pub const METRICS_CONNECTIONS_MAX: usize = 4;
/// Largest head of a request for metrics, in bytes.
pub const METRICS_REQUEST_BYTES_MAX: usize = 16 << 10;
/// How long who connects for metrics may take to ask.
pub const METRICS_IDLE: Duration = Duration::from_secs(5);
/// How long a connection for metrics may take in all.
pub const METRICS_REPLY_WAIT: Duration = Duration::from_secs(30);
/// Pause after a connection for metrics could not be taken.
pub const METRICS_ACCEPT_RETRY: Duration = Duration::from_secs(1);
