//! A line to a server that takes its time: a delay each way, and so many bytes a second for all
//! connections together.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Quality {
    /// There and back, in microseconds.
    delay: AtomicU64,
    /// Bytes a second towards the client; 0: any number.
    rate: AtomicU64,
    /// When the line is free again.
    free: Mutex<Instant>,
    /// Bytes that came to the client.
    carried: AtomicU64,
}

/// The line; its threads end with the process.
#[derive(Debug)]
pub struct SlowLine {
    endpoint: String,
    quality: Arc<Quality>,
}

impl SlowLine {
    /// A quick one, to a server at `http://host:port`.
    pub fn to(server: &str) -> SlowLine {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let free = Mutex::new(Instant::now());
        let [delay, rate, carried] = [0; 3].map(AtomicU64::new);
        let quality = Arc::new(Quality { delay, rate, free, carried });
        let ours = quality.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(there) = TcpStream::connect(&server) else { continue };
                for stream in [&client, &there] {
                    let _as_it_is = stream.set_nodelay(true);
                }
                let ends = (client.try_clone(), there.try_clone());
                let (Ok(back), Ok(out)) = ends else { continue };
                carry(client, out, ours.clone(), false);
                carry(there, back, ours.clone(), true);
            }
        });
        SlowLine { endpoint, quality }
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Waits until nothing has come to the client for so long; not longer than `most`.
    pub fn until_idle(&self, quiet: Duration, most: Duration) -> bool {
        let until = Instant::now() + most;
        let carried = || self.quality.carried.load(Ordering::Relaxed);
        loop {
            let before = carried();
            std::thread::sleep(quiet);
            if carried() == before {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
        }
    }

    /// From now on: time there and back, and bytes a second towards the client (0: any number).
    pub fn set(&self, delay: Duration, rate: u64) {
        let delay = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.quality.delay.store(delay, Ordering::Relaxed);
        self.quality.rate.store(rate, Ordering::Relaxed);
    }
}

/// Carries bytes one way on two threads: one notes when they came, one gives them away.
fn carry(mut from: TcpStream, to: TcpStream, quality: Arc<Quality>, paced: bool) {
    let (sender, receiver) = sync_channel::<(Instant, Vec<u8>)>(4096);
    let ours = quality.clone();
    std::thread::spawn(move || give(to, &receiver, &ours, paced));
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let delay = Duration::from_micros(quality.delay.load(Ordering::Relaxed) / 2);
            if sender.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
}

fn give(
    mut to: TcpStream,
    receiver: &Receiver<(Instant, Vec<u8>)>,
    quality: &Quality,
    paced: bool,
) {
    for (due, bytes) in receiver {
        let rate = quality.rate.load(Ordering::Relaxed);
        let mut due = due;
        if paced && rate > 0 {
            let mut free = quality.free.lock().expect("no panic");
            let time = Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
            *free = (*free).max(due) + time;
            due = *free;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
        if paced {
            quality.carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
    let _ended = to.shutdown(Shutdown::Write);
}
