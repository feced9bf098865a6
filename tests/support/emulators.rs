//! Emulators of Azure Blob Storage and Google Cloud Storage, on free ports of the loopback interface.

use spoolfs::store::{Secret, TargetOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// Longest wait for the first answered request.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Azurite.
    Azure,
    /// fake-gcs-server.
    Google,
}

impl Kind {
    /// The variable that names its program; `scripts/test` sets it.
    fn variable(self) -> &'static str {
        match self {
            Kind::Azure => "SPOOLFS_TEST_AZURITE",
            Kind::Google => "SPOOLFS_TEST_FAKE_GCS",
        }
    }
}

/// A running emulator, with all in memory; it is killed when this is dropped.
pub struct Emulator {
    pub kind: Kind,
    child: Child,
    port: u16,
    buckets: AtomicU32,
    dir: tempfile::TempDir,
}

impl Emulator {
    /// Azurite's account, known to all.
    pub const ACCOUNT: &'static str = "devstoreaccount1";
    pub const KEY: &'static str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/\
                                   K1SZFPTOtr/KBHBeksoGMGw==";

    /// An emulator of its own. `None`, said aloud, if there is no program for it.
    pub fn start(kind: Kind) -> Option<Emulator> {
        let Some(program) = std::env::var_os(kind.variable()) else {
            let reason = format!("{} names no program; run scripts/test", kind.variable());
            super::skip(&format!("{kind:?}"), "clouds", &reason);
            return None;
        };
        // A port found free may be taken by the time it is bound: then another try.
        let started = (0..3).find_map(|_| Emulator::try_start(kind, Path::new(&program)));
        Some(started.unwrap_or_else(|| panic!("{} does not start", program.display())))
    }

    /// The one that all tests of this process share while one of them holds it.
    pub fn shared(kind: Kind) -> Option<Arc<Emulator>> {
        static SHARED: Mutex<[Weak<Emulator>; 2]> = Mutex::new([Weak::new(), Weak::new()]);
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let place = &mut shared[usize::from(kind == Kind::Google)];
        if let Some(emulator) = place.upgrade() {
            return Some(emulator);
        }
        let emulator = Arc::new(Emulator::start(kind)?);
        *place = Arc::downgrade(&emulator);
        Some(emulator)
    }

    fn try_start(kind: Kind, program: &Path) -> Option<Emulator> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = std::fs::File::create(dir.path().join("log")).expect("log");
        let [port] = super::seaweedfs::free_ports::<1>();
        let mut command = Command::new(program);
        match kind {
            Kind::Azure => command
                .args(["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"])
                .args(["--silent", "--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]),
            Kind::Google => command
                .args(["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"])
                .args(["-port", &port.to_string(), "-public-host", &format!("127.0.0.1:{port}")])
                .args(["-external-url", &format!("http://127.0.0.1:{port}")]),
        };
        let child = command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}={}: {e}", kind.variable(), program.display()));
        let mut emulator = Emulator { kind, child, port, buckets: AtomicU32::new(0), dir };
        emulator.wait_until_ready().then_some(emulator)
    }

    fn wait_until_ready(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < START_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            if self.create("ready").is_some_and(|status| status.contains(" 20")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        eprintln!("{:?} did not start: {log}", self.kind);
        false
    }

    /// Where it is.
    pub fn endpoint(&self) -> String {
        match self.kind {
            Kind::Azure => format!("http://127.0.0.1:{}/{}", self.port, Self::ACCOUNT),
            Kind::Google => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// Ends it, as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child can be waited for");
    }

    /// Makes a bucket or container that no other test has, and returns the beginning of its URL.
    pub fn new_bucket(&self) -> String {
        let name = format!("test-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let status = self.create(&name).expect("an answer");
        assert!(status.contains(" 20"), "{status}");
        match self.kind {
            Kind::Azure => format!("az://{name}"),
            Kind::Google => format!("gs://{name}"),
        }
    }

    /// Options for a target in it.
    pub fn target(&self, url: &str) -> TargetOptions {
        let azure = self.kind == Kind::Azure;
        TargetOptions {
            name: "cloud".into(),
            url: url.into(),
            endpoint: Some(self.endpoint()),
            access_key_id: azure.then(|| Self::ACCOUNT.into()),
            secret_access_key: azure.then(|| Secret::new(Self::KEY)),
            ..TargetOptions::default()
        }
    }

    /// The same as lines of a configuration file.
    pub fn config(&self, url: &str) -> String {
        let mut lines = format!(
            "\n[[target]]\nname = \"cloud\"\nurl = \"{url}\"\nendpoint = \"{}\"\n",
            self.endpoint()
        );
        if self.kind == Kind::Azure {
            let (account, key) = (Self::ACCOUNT, Self::KEY);
            lines += &format!("access_key_id = \"{account}\"\nsecret_access_key = \"{key}\"\n");
        }
        lines
    }

    /// The status line of the answer to a request that makes a bucket, if there is one.
    fn create(&self, name: &str) -> Option<String> {
        match self.kind {
            Kind::Google => {
                let body = format!("{{\"name\":\"{name}\"}}");
                let headers = [("content-type".into(), "application/json".into())];
                exchange("POST", self.port, "/storage/v1/b?project=test", &headers, &body)
            }
            Kind::Azure => {
                let path = format!("/{}/{name}?restype=container", Self::ACCOUNT);
                let headers = signed(&format!("http://127.0.0.1:{}{path}", self.port));
                exchange("PUT", self.port, &path, &headers, "")
            }
        }
        .map(|answer| answer.lines().next().unwrap_or_default().to_owned())
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _already_dead = self.child.wait();
    }
}

/// The headers of a PUT that is signed with Azurite's key.
fn signed(url: &str) -> Vec<(String, String)> {
    use reqsign_azure_storage::{RequestSigner, StaticCredentialProvider};
    let request = http::Request::put(url).header("x-ms-version", "2022-11-02");
    let mut parts = request.header("content-length", 0).body(()).expect("a request").into_parts().0;
    let key = StaticCredentialProvider::new_shared_key(Emulator::ACCOUNT, Emulator::KEY);
    let signer = reqsign_core::Signer::new(reqsign_core::Context::new(), key, RequestSigner::new());
    // On a thread of its own, so that it works within and without a runtime.
    let sign = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(signer.sign(&mut parts, None)).expect("it signs");
        parts
    });
    let parts = sign.join().expect("the thread that signs");
    let pairs = parts.headers.iter().filter(|(name, _)| *name != "content-length");
    pairs.map(|(name, value)| (name.to_string(), value.to_str().expect("text").into())).collect()
}

/// One request past spoolfs: all of the answer.
pub fn exchange(
    method: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
    body: &str,
) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
