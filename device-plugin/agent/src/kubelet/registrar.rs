//! Registers resources with the kubelet.

use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::service::OPTIONS;
use super::v1beta1::RegisterRequest;
use super::v1beta1::registration_client::RegistrationClient;
use super::{API_VERSION, ResourceName, resource_name, socket_name};

/// A limit above the ten seconds after which the kubelet itself gives up dialling a plugin's socket.
const DEADLINE: Duration = Duration::from_secs(15);

/// Why the kubelet did not register a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegisterError {
    /// Registering again is useless until there is another kubelet.
    #[error("this kubelet does not speak the device plugin API {API_VERSION}: {0}")]
    Version(String),
    #[error("the kubelet refused {resource}: {message}")]
    Refused { resource: String, message: String },
    #[error("cannot reach the kubelet at {socket:?}: {message}")]
    Unreachable { socket: PathBuf, message: String },
}

/// A connection to one instance of the kubelet; opened at the first call.
#[derive(Clone)]
pub(super) struct Registrar {
    socket: PathBuf,
    client: RegistrationClient<Channel>,
}

impl Registrar {
    pub(super) fn new(socket: PathBuf) -> Self {
        let path = socket.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        Self { socket, client: RegistrationClient::new(channel) }
    }

    pub(super) async fn register(mut self, name: &ResourceName) -> Result<(), RegisterError> {
        let resource = resource_name(name);
        let request = RegisterRequest {
            version: API_VERSION.to_owned(),
            endpoint: socket_name(name),
            resource_name: resource.clone(),
            options: Some(OPTIONS),
        };
        let answer = tokio::time::timeout(DEADLINE, self.client.register(request)).await;
        let status = match answer {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded(format!("no answer within {} s", DEADLINE.as_secs())),
        };
        Err(self.explain(resource, &status))
    }

    fn explain(self, resource: String, status: &Status) -> RegisterError {
        let mut message = status.message().to_owned();
        let mut source = std::error::Error::source(status);
        while let Some(error) = source {
            message = format!("{message}: {error}");
            source = error.source();
        }
        match status.code() {
            Code::Unimplemented => {
                RegisterError::Version(format!("it has no v1beta1.Registration ({message})"))
            }
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                RegisterError::Unreachable { socket: self.socket, message }
            }
            // The kubelet has no code of its own for this: it answers Unknown with this message.
            _ if message.contains("API version") => RegisterError::Version(message),
            _ => RegisterError::Refused { resource, message },
        }
    }
}
