//! `GET /metrics` for Prometheus, where `metrics.listen` says.

use super::{Daemon, commands};
use crate::control::metrics;
use crate::limits;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Answers from now on, if that is configured. Without the address, which somebody else may have,
/// there are no metrics, and the mount is served all the same.
pub(super) fn serve(daemon: &Arc<Daemon>) {
    let Some(address) = daemon.config.read().metrics else { return };
    let runtime = daemon.runtime.clone();
    let daemon = daemon.clone();
    runtime.spawn(async move {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                // The port may have been left to the kernel.
                let address = listener.local_addr().unwrap_or(address);
                tracing::info!(%address, "metrics are served");
                answer(&daemon, &listener).await;
            }
            Err(error) => tracing::error!(
                %address, %error,
                "there are no metrics: the address can not be listened at; change metrics.listen and restart spoolfs"
            ),
        }
    });
}

async fn answer(daemon: &Arc<Daemon>, listener: &TcpListener) {
    let room = Arc::new(Semaphore::new(limits::METRICS_CONNECTIONS_MAX));
    loop {
        // Who comes when there is no room waits in the kernel's queue.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be taken");
                tokio::time::sleep(limits::METRICS_ACCEPT_RETRY).await;
                continue;
            }
        };
        let daemon = daemon.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| page(daemon.clone(), request));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits::METRICS_IDLE)
                .max_buf_size(limits::METRICS_REQUEST_BYTES_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let served = tokio::time::timeout(limits::METRICS_REPLY_WAIT, connection).await;
            if let Ok(Err(error)) = served {
                tracing::debug!(%error, "a connection for metrics broke off");
            }
            drop(place);
        });
    }
}

async fn page(
    daemon: Arc<Daemon>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "spoolfs has /metrics and nothing else here\n"));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    // It asks the catalog, which may take its time.
    let text = tokio::task::spawn_blocking(move || metrics::text(&commands::status(&daemon))).await;
    Ok(match text {
        Ok(Ok(text)) => {
            let mut response = plain(StatusCode::OK, text);
            let kind = HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => plain(StatusCode::INTERNAL_SERVER_ERROR, "a fault of spoolfs; its log says more\n"),
    })
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
