use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::SOCKET;
use crate::root_socket;

/// The time limit of a request. The node's part answers from memory.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends one `GET` request for a path to the agent socket in the folder `run`.
///
/// # Errors
/// The node's part is away, or does not answer.
pub async fn get_once(run: &Path, path: &str) -> Result<(StatusCode, String)> {
    let asked = async {
        let stream = root_socket::connect(&run.join(SOCKET)).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path).header(hyper::header::HOST, "k8slan").body(String::new())?;
        let response = sender.send_request(request).await?;
        let code = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((code, String::from_utf8_lossy(&bytes).into_owned()))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, asked).await.context("it does not answer")?
}
