//! A gRPC client of the standard health service.

use tonic::{Status, Streaming, transport::Endpoint};
pub use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

#[derive(Debug)]
pub struct Health(HealthClient<tonic::transport::Channel>);

impl Health {
    /// A client that connects to that port of loopback and asks for `authority`.
    pub async fn connect(port: u16, authority: &str) -> Self {
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
            .expect("an address")
            .origin(format!("http://{authority}").parse().expect("an authority"))
            .connect()
            .await
            .expect("connect");
        Self(HealthClient::new(channel))
    }

    /// Unary: the status of `service` now.
    ///
    /// # Errors
    /// The `grpc-status` of the answer.
    pub async fn check(&mut self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.into() };
        Ok(self.0.check(request).await?.into_inner().status())
    }

    /// Streaming: the status of `service` now and whenever it changes.
    ///
    /// # Errors
    /// The `grpc-status` of the answer.
    pub async fn watch(&mut self, service: &str) -> Result<Watch, Status> {
        let request = HealthCheckRequest { service: service.into() };
        Ok(Watch(self.0.watch(request).await?.into_inner()))
    }
}

#[derive(Debug)]
pub struct Watch(Streaming<HealthCheckResponse>);

impl Watch {
    /// The next message of the stream; `None` at its clean end.
    ///
    /// # Errors
    /// The `grpc-status` the stream ended with.
    pub async fn next(&mut self) -> Result<Option<ServingStatus>, Status> {
        Ok(self.0.message().await?.map(|message| message.status()))
    }
}
