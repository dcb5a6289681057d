//! `/metrics`, `/live` and `/ready` on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Health;

/// What the pages show.
#[derive(Clone)]
struct Pages {
    metrics: PrometheusHandle,
    health: Arc<Health>,
}

/// Binds the address, so that a wrong one is known before anything else starts.
///
/// # Errors
///
/// The address is in use or not of this machine.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop`. It stops last, so that the stop can be watched.
pub async fn serve(
    listener: TcpListener,
    metrics: PrometheusHandle,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    let pages = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .with_state(Pages { metrics, health });
    let served = axum::serve(listener, pages).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(%error, "the http server ended; metrics cannot be read until a restart");
    }
}

async fn show_metrics(Shared(pages): Shared<Pages>) -> Response {
    // it may look at disks
    let health = Arc::clone(&pages.health);
    if let Err(error) = tokio::task::spawn_blocking(move || health.scraped()).await {
        tracing::error!(%error, "metrics could not be brought up to date");
    }
    pages.metrics.run_upkeep();
    let text = pages.metrics.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn live(Shared(pages): Shared<Pages>) -> Response {
    answer(pages.health.live())
}

async fn ready(Shared(pages): Shared<Pages>) -> Response {
    answer(pages.health.ready())
}

fn answer(health: Result<String, String>) -> Response {
    match health {
        Ok(text) => (StatusCode::OK, text + "\n").into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text + "\n").into_response(),
    }
}
