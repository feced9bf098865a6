//! A real S3 server for tests: SeaweedFS on free ports of the loopback interface.

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use spoolfs::store::{Secret, TargetOptions};
use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Names the `weed` program; `scripts/test` sets it.
const PROGRAM: &str = "SPOOLFS_TEST_WEED";
/// Longest wait for the first answered request.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running server; it is killed and its data removed when this is dropped.
pub struct SeaweedFs {
    child: Child,
    ports: [u16; 10],
    buckets: AtomicU32,
    dir: tempfile::TempDir,
}

impl SeaweedFs {
    pub const ACCESS_KEY: &'static str = "spoolfs-test";
    pub const SECRET_KEY: &'static str = "spoolfs-test-secret";

    /// A server of its own. `None`, said aloud, if there is no program for it.
    pub fn start() -> Option<SeaweedFs> {
        let Some(program) = std::env::var_os(PROGRAM) else {
            // Not `eprintln!`, which is not shown for a test that passes.
            let skipped = format!("SKIPPED: {PROGRAM} names no `weed` program; run scripts/test\n");
            let _closed = std::io::stderr().write_all(skipped.as_bytes());
            return None;
        };
        // A port found free may be taken by the time the server binds it: then another try.
        for _ in 0..3 {
            if let Some(server) = SeaweedFs::try_start(&PathBuf::from(&program)) {
                return Some(server);
            }
        }
        panic!("SeaweedFS ({}) does not start", program.display());
    }

    /// The server that all tests of this process share while one of them holds it.
    pub fn shared() -> Option<Arc<SeaweedFs>> {
        static SHARED: Mutex<Weak<SeaweedFs>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(SeaweedFs::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    fn try_start(program: &std::path::Path) -> Option<SeaweedFs> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let config = dir.path().join("s3.json");
        let identities = format!(
            r#"{{"identities":[{{"name":"test","credentials":[{{"accessKey":"{}","secretKey":"{}"}}],
                "actions":["Admin","Read","List","Tagging","Write"]}}]}}"#,
            Self::ACCESS_KEY,
            Self::SECRET_KEY
        );
        std::fs::write(&config, identities).expect("server configuration");
        let log = std::fs::File::create(dir.path().join("log")).expect("server log");
        let ports = free_ports::<10>();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("data directory");
        let mut command = Command::new(program);
        command
            .arg(format!("-logdir={}", dir.path().display()))
            .arg("mini")
            .arg(format!("-dir={}", data.display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"])
            .arg(format!("-s3.config={}", config.display()))
            .arg(format!("-s3.localSocket={}", dir.path().join("s3.sock").display()));
        let names = ["s3", "s3", "master", "master", "volume", "volume", "filer", "filer"];
        for (i, name) in names.into_iter().chain(["admin", "admin"]).enumerate() {
            let grpc = if i % 2 == 1 { ".grpc" } else { "" };
            command.arg(format!("-{name}.port{grpc}={}", ports[i]));
        }
        let child = command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("server log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{PROGRAM}={}: {e}", program.display()));
        let mut server = SeaweedFs { child, ports, buckets: AtomicU32::new(0), dir };
        server.wait_until_ready().then_some(server)
    }

    /// Whether a real request succeeds; the server's health answer comes seconds too early.
    fn wait_until_ready(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < START_TIMEOUT {
            if self.try_create_bucket("ready", false).is_ok() {
                return true;
            }
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(20).collect();
        eprintln!("SeaweedFS did not start: {tail:#?}");
        false
    }

    /// The address of its S3 service.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Its process, for tests that stop it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Makes a bucket that no other test has, and returns its name.
    pub fn new_bucket(&self) -> String {
        let name = format!("test-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.try_create_bucket(&name, false).expect("bucket");
        name
    }

    /// The same with Object Lock, and so with versions.
    pub fn new_locked_bucket(&self) -> String {
        let name = format!("locked-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.try_create_bucket(&name, true).expect("bucket");
        name
    }

    /// Options for a target in this server; `url` is `s3://bucket/prefix`.
    pub fn target(&self, name: &str, url: &str) -> TargetOptions {
        TargetOptions {
            name: name.into(),
            url: url.into(),
            endpoint: Some(self.endpoint()),
            access_key_id: Some(Self::ACCESS_KEY.into()),
            secret_access_key: Some(Secret::new(Self::SECRET_KEY)),
            ..TargetOptions::default()
        }
    }

    /// A plain client, to look at the server past spoolfs.
    pub fn client(&self) -> aws_sdk_s3::Client {
        Self::client_at(self.endpoint())
    }

    /// The same through another address.
    pub fn client_at(endpoint: String) -> aws_sdk_s3::Client {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let keys = Credentials::new(Self::ACCESS_KEY, Self::SECRET_KEY, None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new("us-east-1"))
            .endpoint_url(endpoint)
            .force_path_style(true)
            .credentials_provider(keys)
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    fn try_create_bucket(&self, name: &str, locked: bool) -> Result<(), String> {
        let (client, name) = (self.client(), name.to_owned());
        // On a thread of its own, so that it works within and without a runtime.
        let create = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|e| e.to_string())?;
            let make = client.create_bucket().bucket(&name);
            if locked {
                let made = runtime.block_on(make.object_lock_enabled_for_bucket(true).send());
                return made.map(drop).map_err(|e| format!("{e:?}"));
            }
            runtime.block_on(make.send()).map_err(|e| format!("{e:?}"))?;
            // On a busy machine the first object may come before there is a volume for it: an
            // error of the server that is none of a test's.
            let begin = Instant::now();
            while let Err(e) = runtime.block_on(touch(&client, &name)) {
                if begin.elapsed() > START_TIMEOUT {
                    return Err(e);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        create.join().expect("the thread that makes a bucket")
    }
}

/// Puts an object and deletes it.
async fn touch(client: &aws_sdk_s3::Client, bucket: &str) -> Result<(), String> {
    let key = "there";
    let put = client.put_object().bucket(bucket).key(key).send();
    put.await.map_err(|e| format!("{e:?}"))?;
    let delete = client.delete_object().bucket(bucket).key(key).send();
    delete.await.map(drop).map_err(|e| format!("{e:?}"))
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _already_dead = self.child.wait();
        // It leaves sockets named by its ports, whatever it is told.
        for port in self.ports {
            for part in ["s3", "master", "volume", "filer", "admin"] {
                for kind in ["", "-grpc"] {
                    let socket = format!("/tmp/seaweedfs-{part}{kind}-{port}.sock");
                    let _not_this_one = std::fs::remove_file(socket);
                }
            }
        }
    }
}

/// Ports that nothing listens on now.
pub(super) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("free port"));
    listeners.map(|l| l.local_addr().expect("address of a listener").port())
}
