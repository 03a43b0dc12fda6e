//! Fault injection: delay, then abort, each decided for itself (istio-compat 1.1).

use http::{HeaderName, HeaderValue, StatusCode};
use weir_config::model::filter::{AbortStatus, Fault};

use crate::{
    local_reply::LocalReply,
    telemetry::{ResponseFlag, StreamInfo},
};

/// Delays the request and aborts it, as often as `config` says.
///
/// # Errors
/// The abort's reply.
pub async fn on_request(
    config: &Fault,
    info: &mut StreamInfo,
    rng: &mut fastrand::Rng,
) -> Result<(), LocalReply> {
    if let Some(delay) = &config.delay
        && hits(delay.per_million, rng)
    {
        info.flags.set(ResponseFlag::DelayInjected);
        tokio::time::sleep(delay.duration).await;
    }
    match &config.abort {
        Some(abort) if hits(abort.per_million, rng) => Err(reply(abort.status)),
        _ => Ok(()),
    }
}

fn hits(per_million: u32, rng: &mut fastrand::Rng) -> bool {
    rng.u32(0..1_000_000) < per_million
}

fn reply(status: AbortStatus) -> LocalReply {
    let http = match status {
        AbortStatus::Http(status) => status,
        AbortStatus::Grpc(code) => http_status(code),
    };
    let reply = LocalReply::new(
        http,
        ResponseFlag::FaultInjected,
        "fault_filter_abort",
        "fault filter abort",
    );
    match status {
        AbortStatus::Http(_) => reply,
        // For gRPC clients, who are sent this one and not one derived from the HTTP status.
        AbortStatus::Grpc(code) => reply.with_header(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from(u16::from(code)),
        ),
    }
}

/// What a client that does not speak gRPC is told (Envoy's `grpcToHttpStatus`).
fn http_status(grpc: u8) -> StatusCode {
    match grpc {
        0 => StatusCode::OK,
        1 => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use weir_config::model::filter::{FaultAbort, FaultDelay};

    use super::*;
    use crate::filter::test_support::info;

    const DELAY: Duration = Duration::from_secs(5);

    fn fault(delay_per_million: u32, abort_per_million: u32, status: AbortStatus) -> Fault {
        Fault {
            delay: Some(FaultDelay { duration: DELAY, per_million: delay_per_million }),
            abort: Some(FaultAbort { status, per_million: abort_per_million }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_waits_and_lets_the_request_through() {
        let mut info = info();
        let before = Instant::now();
        let fault = fault(1_000_000, 0, AbortStatus::Http(StatusCode::BAD_GATEWAY));
        assert!(on_request(&fault, &mut info, &mut fastrand::Rng::with_seed(1)).await.is_ok());
        assert_eq!(before.elapsed(), DELAY);
        assert!(info.flags.contains(ResponseFlag::DelayInjected));
    }

    #[tokio::test(start_paused = true)]
    async fn an_abort_comes_after_the_delay() {
        let mut info = info();
        let before = Instant::now();
        let fault = fault(1_000_000, 1_000_000, AbortStatus::Http(StatusCode::IM_A_TEAPOT));
        let reply =
            on_request(&fault, &mut info, &mut fastrand::Rng::with_seed(1)).await.unwrap_err();
        assert_eq!(before.elapsed(), DELAY);
        assert_eq!(reply.status, StatusCode::IM_A_TEAPOT);
        assert_eq!(reply.flag, Some(ResponseFlag::FaultInjected));
        assert_eq!(reply.body, "fault filter abort");
    }

    #[tokio::test(start_paused = true)]
    async fn zero_percent_never_happens() {
        let mut info = info();
        let mut rng = fastrand::Rng::with_seed(3);
        let fault = fault(0, 0, AbortStatus::Http(StatusCode::BAD_GATEWAY));
        for _ in 0..10_000 {
            assert!(on_request(&fault, &mut info, &mut rng).await.is_ok());
        }
        assert!(info.flags.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_hit_about_that_often() {
        let mut info = info();
        let mut rng = fastrand::Rng::with_seed(4);
        let fault = Fault { delay: None, ..fault(0, 250_000, AbortStatus::Grpc(14)) };
        let mut aborted = 0;
        for _ in 0..10_000 {
            aborted += u32::from(on_request(&fault, &mut info, &mut rng).await.is_err());
        }
        assert!((2_300..2_700).contains(&aborted), "{aborted} of 10000");
    }

    #[test]
    fn a_grpc_abort_carries_its_status() {
        let reply = reply(AbortStatus::Grpc(14));
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers[0].0, "grpc-status");
        assert_eq!(reply.headers[0].1, "14");
    }
}
