//! A gRPC server: the standard health service, with unary `Check` and streaming `Watch`.

use std::net::Ipv4Addr;

use tokio::{net::TcpListener, task::AbortHandle};
use tonic::transport::server::TcpIncoming;
pub use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

pub struct GrpcServer {
    port: u16,
    reporter: HealthReporter,
    task: AbortHandle,
}

impl GrpcServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (reporter, service) = health_reporter();
        let serve = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serve.await.expect("serve gRPC") });
        Self { port, reporter, task: task.abort_handle() }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `Check` answers for `service`, and `Watch` reports next.
    pub async fn set(&self, service: &str, status: ServingStatus) {
        self.reporter.set_service_status(service, status).await;
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
