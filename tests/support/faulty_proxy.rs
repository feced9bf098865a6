//! A proxy before a real HTTP server that spoils the Nth request or its answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// The connection is reset when half of the body was read; nothing reaches the server.
    ResetInBody,
    /// The server gets it, and the connection is closed without an answer.
    ReplyLost,
    /// Half of the answer's bytes, then the end of the connection.
    Truncated,
    /// Half of the answer's bytes, then a reset.
    ResetInAnswer,
    /// Nothing for a while, then the end of the connection.
    Stall,
    /// 503 without asking the server.
    Busy,
    /// 403, as keys do that have expired.
    Expired,
    /// 403, as for a clock that is off.
    Skewed,
    /// 200 and nothing else.
    EmptyOk,
    /// One bit of the answer's body is another.
    WrongByte,
    /// What was kept beside the object is left out of the answer.
    NoMetadata,
}

impl Spoil {
    pub const ALL: [Spoil; 11] = [
        Spoil::ResetInBody,
        Spoil::ReplyLost,
        Spoil::Truncated,
        Spoil::ResetInAnswer,
        Spoil::Stall,
        Spoil::Busy,
        Spoil::Expired,
        Spoil::Skewed,
        Spoil::EmptyOk,
        Spoil::WrongByte,
        Spoil::NoMetadata,
    ];
}

/// How long a stalled request is held.
const STALL: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Script {
    spoil: Spoil,
    /// The first request that is spoiled, counted from 1, and how many; then all is well.
    first: u64,
    long: u64,
    requests: u64,
    spoiled: u64,
    asked: Vec<String>,
}

/// The proxy; its threads end with the process.
#[derive(Debug)]
pub struct Proxy {
    endpoint: String,
    script: Arc<Mutex<Script>>,
}

impl Proxy {
    /// Before a server at `http://host:port`.
    pub fn before(server: &str) -> Proxy {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        let script = Script {
            spoil: Spoil::Busy,
            first: 0,
            long: 0,
            requests: 0,
            spoiled: 0,
            asked: Vec::new(),
        };
        let script = Arc::new(Mutex::new(script));
        let told = script.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, script) = (server.clone(), told.clone());
                std::thread::spawn(move || {
                    // An error is the end of the connection, for both sides.
                    let _ended = serve(client, &server, &script);
                });
            }
        });
        Proxy { endpoint, script }
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Spoils `long` requests from the `first` on; counting begins anew.
    pub fn set(&self, spoil: Spoil, first: u64, long: u64) {
        *self.script.lock().unwrap() =
            Script { spoil, first, long, requests: 0, spoiled: 0, asked: Vec::new() };
    }

    /// How many requests were spoiled, of how many.
    pub fn spoiled(&self) -> (u64, u64) {
        let script = self.script.lock().unwrap();
        (script.spoiled, script.requests)
    }

    /// The first lines of all requests since counting began.
    pub fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
}

fn turn(script: &Mutex<Script>, head: &str) -> Option<Spoil> {
    let mut script = script.lock().unwrap();
    script.asked.push(head.lines().next().unwrap_or_default().to_owned());
    script.requests += 1;
    let now = (script.first..script.first + script.long).contains(&script.requests);
    script.spoiled += u64::from(now);
    now.then_some(script.spoil)
}

fn serve(client: TcpStream, server: &str, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut client = client;
    loop {
        let Some(head) = read_head(&mut from)? else { return Ok(()) };
        let spoil = turn(script, &head);
        let mut body = vec![0; field(&head, "content-length").unwrap_or(0)];
        if spoil == Some(Spoil::ResetInBody) {
            let half = body.len() / 2;
            from.read_exact(&mut body[..half])?;
            return reset(&client);
        }
        from.read_exact(&mut body)?;
        let method_is_head = head.starts_with("HEAD ");
        match spoil {
            Some(Spoil::Stall) => {
                std::thread::sleep(STALL);
                return client.shutdown(Shutdown::Both);
            }
            Some(Spoil::Busy) => answer(&mut client, 503, "SlowDown", method_is_head)?,
            Some(Spoil::Expired) => answer(&mut client, 403, "ExpiredToken", method_is_head)?,
            Some(Spoil::Skewed) => {
                answer(&mut client, 403, "RequestTimeTooSkewed", method_is_head)?;
            }
            Some(Spoil::EmptyOk) => {
                client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
            }
            _ => {
                let reply = ask(server, &head, &body)?;
                if !pass_on(&mut client, reply, spoil, method_is_head)? {
                    return Ok(());
                }
            }
        }
    }
}

/// Everything that the server answers, on a connection of its own.
fn ask(server: &str, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    let lines = head.split_inclusive("\r\n");
    let kept: String = lines
        .filter(|line| {
            let line = line.to_ascii_lowercase();
            !line.starts_with("connection:") && !line.starts_with("expect:") && line != "\r\n"
        })
        .collect();
    stream.write_all(kept.as_bytes())?;
    stream.write_all(b"connection: close\r\n\r\n")?;
    stream.write_all(body)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    Ok(reply)
}

/// Gives the client its answer, or what is left of it; whether the connection goes on.
fn pass_on(
    client: &mut TcpStream,
    mut reply: Vec<u8>,
    spoil: Option<Spoil>,
    is_head: bool,
) -> std::io::Result<bool> {
    let body_at = reply.windows(4).position(|w| w == b"\r\n\r\n").map_or(reply.len(), |at| at + 4);
    match spoil {
        Some(Spoil::ReplyLost) => {
            client.shutdown(Shutdown::Both)?;
            return Ok(false);
        }
        Some(Spoil::Truncated | Spoil::ResetInAnswer) => {
            client.write_all(&reply[..reply.len() / 2])?;
            match spoil {
                Some(Spoil::ResetInAnswer) => reset(client)?,
                _ => client.shutdown(Shutdown::Both)?,
            }
            return Ok(false);
        }
        Some(Spoil::WrongByte) if body_at < reply.len() => {
            let middle = body_at + (reply.len() - body_at) / 2;
            reply[middle] ^= 0x10;
        }
        Some(Spoil::NoMetadata) => {
            let head = String::from_utf8_lossy(&reply[..body_at]).into_owned();
            let own = |line: &&str| !line.to_ascii_lowercase().starts_with("x-amz-meta-");
            let mut less: Vec<u8> =
                head.split_inclusive("\r\n").filter(own).collect::<String>().into_bytes();
            less.extend_from_slice(&reply[body_at..]);
            reply = less;
        }
        _ => {}
    }
    client.write_all(&reply)?;
    // Where the end of the connection is the end of the body, or the server said so.
    let head = String::from_utf8_lossy(&reply).to_ascii_lowercase();
    let head = head.split("\r\n\r\n").next().unwrap_or_default().to_owned();
    let goes_on =
        (is_head || head.contains("content-length:")) && !head.contains("connection: close");
    if !goes_on {
        client.shutdown(Shutdown::Both)?;
    }
    Ok(goes_on)
}

fn answer(client: &mut TcpStream, status: u16, code: &str, is_head: bool) -> std::io::Result<()> {
    let body = format!("<Error><Code>{code}</Code><Message>on request</Message></Error>");
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write_all(head.as_bytes())?;
    if is_head { Ok(()) } else { client.write_all(body.as_bytes()) }
}

/// Has the other side told of an error when the connection is closed (SO_LINGER 0).
fn reset(client: &TcpStream) -> std::io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?)
}

/// A request line with its headers and the empty line; none at the end of the connection.
fn read_head(from: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if from.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if &head[before..] == "\r\n" {
            return Ok(Some(head));
        }
    }
}

fn field(head: &str, name: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().parse().ok())?
    })
}
