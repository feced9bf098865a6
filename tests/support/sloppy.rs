//! A small HTTP server that records what it is sent and answers what a test wants: for what real
//! servers do wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query, as sent.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub break_after: Option<usize>,
}

impl Answer {
    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// An error as S3 words it.
    pub fn error(status: u16, code: &str) -> Answer {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        Answer { body: body.into_bytes(), ..Answer::status(status) }
    }
}

type Handler = dyn Fn(&Request) -> Answer + Send + Sync;

/// The server; its threads end with the process.
pub struct Sloppy {
    endpoint: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Sloppy {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Sloppy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (handler, record): (Arc<Handler>, _) = (Arc::new(handler), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, record) = (handler.clone(), record.clone());
                std::thread::spawn(move || serve(stream, &*handler, &record));
            }
        });
        Sloppy { endpoint, seen }
    }

    /// A server that keeps objects, overwrites them, and believes every checksum.
    pub fn careless() -> Sloppy {
        let objects: Mutex<BTreeMap<String, (Vec<u8>, String)>> = Mutex::default();
        Sloppy::start(move |request| {
            let mut objects = objects.lock().expect("objects");
            let key = request.path.split('?').next().unwrap_or_default().to_owned();
            let checksum = || request.headers.get("x-amz-checksum-sha256").cloned();
            match request.method.as_str() {
                "PUT" => {
                    objects.insert(key, (request.body.clone(), checksum().unwrap_or_default()));
                    Answer::status(200)
                }
                "DELETE" => {
                    objects.remove(&key);
                    Answer::status(204)
                }
                _ => match objects.get(&key) {
                    None => Answer::error(404, "NoSuchKey"),
                    Some((body, checksum)) => Answer {
                        headers: vec![("x-amz-checksum-sha256", checksum.clone())],
                        body: body.clone(),
                        ..Answer::status(200)
                    },
                },
            }
        })
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("requests").clone()
    }
}

fn serve(stream: TcpStream, handler: &Handler, record: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("stream"));
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        record.lock().expect("requests").push(request.clone());
        let answer = handler(&request);
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", answer.body.len()));
        let body = match (request.method.as_str(), answer.break_after) {
            ("HEAD", _) => &[][..],
            (_, Some(n)) => &answer.body[..n],
            (_, None) => &answer.body,
        };
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        if sent.is_err() || answer.break_after.is_some() {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}
