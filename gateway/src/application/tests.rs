use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use super::{Application, Prober, Settings, probe};
use crate::tls::test_ca::TestCa;

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn prober(json: &str) -> Prober {
    let probers = format!(r#"{{"/app-health/a/livez": {json}}}"#);
    let mut settings =
        Settings::read(|name| (name == "ISTIO_KUBE_APP_PROBERS").then_some(&*probers)).unwrap();
    settings.probers.pop_first().unwrap().1
}

async fn ask(prober: &Prober) -> StatusCode {
    probe(&Application::default(), prober, &HeaderMap::new()).await
}

/// Serves health checks; `unwell` is not served.
async fn health_service() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = |request: Request<Incoming>| async move {
                use http_body_util::BodyExt;
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let status = if body.ends_with(b"unwell") { 2 } else { 1 };
                let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
                Ok::<_, Infallible>(Response::new(Full::new(message)))
            };
            let serving = conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(serving);
        }
    });
    port
}

#[tokio::test]
async fn a_grpc_probe_is_the_standard_health_check() {
    let port = health_service().await;
    let well = prober(&format!(r#"{{"grpc": {{"port": {port}, "service": null}}}}"#));
    assert_eq!(ask(&well).await, StatusCode::OK);
    let unwell = prober(&format!(r#"{{"grpc": {{"port": {port}, "service": "unwell"}}}}"#));
    assert_eq!(ask(&unwell).await, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn an_https_probe_takes_any_certificate_and_speaks_what_the_application_does() {
    let ca = TestCa::new("unknown");
    let leaf = ca.server("elsewhere.test");
    let mut config = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain(), leaf.key())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream =
            tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
        let answer = |request: Request<Incoming>| async move {
            assert_eq!(request.version(), Version::HTTP_2);
            let host = request.uri().authority().map(ToString::to_string);
            assert_eq!((request.uri().path(), host.as_deref()), ("/live", Some("app.test")));
            Ok::<_, Infallible>(
                Response::builder().status(418).body(Full::<Bytes>::default()).unwrap(),
            )
        };
        conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await
            .unwrap();
    });
    let prober = prober(&format!(
        r#"{{"httpGet": {{"port": {port}, "path": "live", "scheme": "HTTPS",
            "httpHeaders": [{{"name": "Host", "value": "app.test"}}]}}, "timeoutSeconds": 30}}"#
    ));
    assert_eq!(ask(&prober).await, StatusCode::IM_A_TEAPOT);
}

#[tokio::test]
async fn a_redirect_is_as_good_as_an_answer_and_silence_is_none() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = |_: Request<Incoming>| async {
            Ok::<_, Infallible>(
                Response::builder().status(302).body(Full::<Bytes>::default()).unwrap(),
            )
        };
        let served = conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(answer))
            .await;
        served.unwrap();
        // Accepted by the kernel, answered by nobody.
        std::future::pending::<()>().await;
    });
    let get =
        prober(&format!(r#"{{"httpGet": {{"port": {port}, "path": "/"}}, "timeoutSeconds": 1}}"#));
    assert_eq!(ask(&get).await, StatusCode::OK);
    assert_eq!(ask(&get).await, StatusCode::INTERNAL_SERVER_ERROR);
}
