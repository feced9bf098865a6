//! The way requests take: hyper with rustls, one client for each runtime, no redirects, no retries.
//! What is no success leaves as a `Fault`, so that nothing between here and us interprets it.

use super::fault::{Words, from_answer, from_identity};
use super::{Cloud, Connection, Options};
use crate::limits;
use crate::store::StoreErrorKind::{Denied, Unreachable, Unsupported};
use crate::store::endpoint::is_loopback;
use crate::store::fault::{Fault, NETWORK, root_cause};
use ::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use ::http::{HeaderMap, Request, Response, StatusCode, Uri};
use bytes::Bytes;
use futures_core::Stream;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opendal::{Buffer, Executor, HttpBody, HttpTransport, HttpTransporter, OperationContext};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::{Handle, Id};
use url::Url;

/// An error's body is read so far.
const ERROR_BYTES_MAX: usize = 64 << 10;
/// How long a machine outside of the cloud may wait to find that out.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
/// Services close connections that were idle for longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The transport of one store.
#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

struct Inner {
    cloud: Cloud,
    /// Host and port of the service: answers of others are about credentials, never about objects.
    authority: String,
    allow_http: bool,
    anonymous: bool,
    /// A client's idle connections are driven by the runtime that opened them, so each runtime has
    /// its own.
    clients: Mutex<HashMap<Id, Https>>,
}

/// What operations of OpenDAL run with.
pub(super) fn context(transport: Transport) -> OperationContext {
    OperationContext::from_parts(HttpTransporter::new(transport), Executor::default())
}

impl Transport {
    pub(super) fn new(options: &Options, connection: &Connection) -> Transport {
        let uri = connection.endpoint.parse::<Uri>().ok();
        let authority = uri.and_then(|uri| uri.authority().map(ToString::to_string));
        Transport(Arc::new(Inner {
            cloud: options.cloud,
            authority: authority.unwrap_or_default(),
            allow_http: options.allow_http,
            anonymous: connection.anonymous,
            clients: Mutex::default(),
        }))
    }

    async fn exchange(&self, request: Request<Buffer>) -> Result<Response<HttpBody>, Fault> {
        let uri = request.uri().clone();
        let host = uri.host().unwrap_or_default().to_owned();
        let ours = is_session(&uri)
            || uri.authority().is_some_and(|authority| authority.as_str() == self.0.authority);
        self.permit(&request, ours)?;
        let asked = request.headers().get(RANGE).cloned();
        let client = self.client()?;
        let sent = client.request(request.map(|body| Full::new(body.to_bytes())));
        let sent = match is_metadata(&host) {
            false => sent.await,
            true => tokio::time::timeout(METADATA_TIMEOUT, sent)
                .await
                .map_err(|_| unanswered(&host, "no answer within 5 s"))?,
        };
        let answer = sent.map_err(|e| unanswered(&host, &root_cause(&e)))?;
        let status = answer.status();
        // 308 is how Google says "go on" with an upload in parts.
        if status.is_success() || (ours && status == StatusCode::PERMANENT_REDIRECT) {
            if let Some(range) = asked.as_ref().and_then(|range| range.to_str().ok()) {
                right_range(range, status, answer.headers())?;
            }
            let length = answer.body().size_hint().exact();
            return Ok(answer.map(|body| HttpBody::new(Parts(body), length)));
        }
        if !ours {
            return Err(from_identity(self.0.cloud, &host, status.as_u16()));
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ERROR_BYTES_MAX).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let code = head.headers.get("x-ms-error-code").and_then(|code| code.to_str().ok());
        let words = Words::read(self.0.cloud, code, &body);
        Err(from_answer(self.0.cloud, status.as_u16(), words))
    }

    /// Nothing goes out unsigned or in the clear by mistake.
    fn permit(&self, request: &Request<Buffer>, ours: bool) -> Result<(), Fault> {
        let (uri, inner) = (request.uri(), &self.0);
        let host = uri.host().unwrap_or_default();
        let local = Url::parse(&uri.to_string()).is_ok_and(|url| is_loopback(&url));
        let allowed = local || is_metadata(host) || (ours && inner.allow_http);
        if !allowed && uri.scheme_str() != Some("https") {
            let what = format!("the service sends us to {host} without encryption");
            return Err(Fault::own(Unsupported, what));
        }
        let signed = request.headers().contains_key(AUTHORIZATION)
            || is_session(uri)
            || uri.query().is_some_and(|query| query.contains("sig="));
        if ours && !signed && !inner.anonymous {
            return Err(Fault::own(Denied, "there are no credentials"));
        }
        Ok(())
    }

    fn client(&self) -> Result<Https, Fault> {
        let runtime = Handle::current().id();
        let mut clients = self.0.clients.lock();
        if let Some(client) = clients.get(&runtime) {
            return Ok(client.clone());
        }
        let client = connect()?;
        if clients.len() >= limits::CLIENTS {
            clients.clear();
        }
        clients.insert(runtime, client.clone());
        Ok(client)
    }
}

fn connect() -> Result<Https, Fault> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(limits::CONNECT_TIMEOUT));
    http.set_nodelay(true);
    let tls = HttpsConnectorBuilder::new()
        .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
        .map_err(|e| {
            let what = format!("this machine's certificates can not be read: {e}");
            Fault { hint: "install the package ca-certificates", ..Fault::own(Unsupported, what) }
        })?;
    let https = tls.https_or_http().enable_http1().wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(limits::IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(https))
}

/// An upload of Google's in chunks: its address is the service's to choose, and is all it takes.
fn is_session(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.contains("upload_id="))
}

/// Where a machine of either cloud asks for its own identity.
fn is_metadata(host: &str) -> bool {
    matches!(host, "169.254.169.254" | "metadata.google.internal")
}

fn unanswered(host: &str, why: &str) -> Fault {
    Fault { hint: NETWORK, ..Fault::own(Unreachable, format!("{host}: {why}")) }
}

/// Whether the bytes that come are those of the range that was asked for.
fn right_range(asked: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let from = match status {
        StatusCode::PARTIAL_CONTENT => text(CONTENT_RANGE).and_then(given),
        StatusCode::OK => text(CONTENT_LENGTH).map(|_| 0..=0),
        _ => None,
    };
    let asked = asked.strip_prefix("bytes=").and_then(|asked| asked.split('-').next());
    match (from, asked.and_then(|start| start.parse::<u64>().ok())) {
        // How Azurite says that a range begins at the end.
        (Some(given), _) if given.end() < given.start() => Err(Fault {
            status: StatusCode::RANGE_NOT_SATISFIABLE.as_u16(),
            ..Fault::own(Unsupported, "there is nothing in the range")
        }),
        (Some(given), Some(asked)) if *given.start() == asked => Ok(()),
        _ => {
            let what = "the service does not answer with the range that was asked for";
            Err(Fault::own(Unsupported, what))
        }
    }
}

/// The range in `bytes 10-19/100`. Without the length of the whole nobody could tell an answer that
/// is too short.
fn given(range: &str) -> Option<RangeInclusive<u64>> {
    let (range, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    whole.parse::<u64>().ok()?;
    Some(start.parse().ok()?..=end.parse().ok()?)
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        self.exchange(request).await.map_err(wrap)
    }
}

/// A fault on its way through OpenDAL; `fault::of` finds it again.
fn wrap(fault: Fault) -> opendal::Error {
    opendal::Error::new(opendal::ErrorKind::Unexpected, "").set_source(fault)
}

/// The body of an answer, part by part.
struct Parts(Incoming);

impl Stream for Parts {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.0).poll_frame(cx) else {
                return Poll::Pending;
            };
            match frame {
                None => return Poll::Ready(None),
                Some(Err(e)) => {
                    let cause = std::io::Error::other(root_cause(&e));
                    return Poll::Ready(Some(Err(wrap(Fault::broken_off(&cause)))));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    // An empty buffer would be taken for the end.
                    Ok(bytes) if !bytes.is_empty() => {
                        return Poll::Ready(Some(Ok(Buffer::from(bytes))));
                    }
                    _ => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_range_that_was_asked_for_is_taken() {
        let answer = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            headers
        };
        let part = answer(&[("content-range", "bytes 10-19/100"), ("content-length", "10")]);
        let partial = StatusCode::PARTIAL_CONTENT;
        assert!(right_range("bytes=10-19", partial, &part).is_ok());
        assert!(right_range("bytes=0-9", partial, &part).is_err(), "another range");
        let whole = answer(&[("content-length", "100")]);
        assert!(right_range("bytes=0-9", StatusCode::OK, &whole).is_ok());
        assert!(right_range("bytes=10-19", StatusCode::OK, &whole).is_err(), "it ignores ranges");
        assert!(right_range("bytes=0-9", StatusCode::OK, &answer(&[])).is_err(), "no length");
        assert!(right_range("bytes=0-9", partial, &whole).is_err(), "it does not say which");
        let nothing = answer(&[("content-range", "bytes 100-99/100"), ("content-length", "0")]);
        assert_eq!(right_range("bytes=100-109", partial, &nothing).unwrap_err().status, 416);
        let unknown = answer(&[("content-range", "bytes 10-19/*")]);
        assert!(right_range("bytes=10-19", partial, &unknown).is_err(), "of what length?");
    }
}
