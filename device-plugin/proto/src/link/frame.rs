//! Messages on a stream of bytes.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest message from the cluster's part, in bytes. A LAN that the CRD allows is smaller.
pub(super) const MAX_FROM_CLUSTER: usize = 1 << 20;
/// The longest message from the node's part, in bytes; more than the status of any node.
pub(super) const MAX_FROM_NODE: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a message of {len} bytes; at most {max} are read")]
    TooLong { len: usize, max: usize },
    #[error("a message that this version does not know: run both parts from one image")]
    Syntax(#[source] serde_json::Error),
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// The next message and its length; `None` when the other end has closed.
pub(super) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<Option<(T, usize)>, FrameError> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = u32::from_be_bytes(head);
    let len = usize::try_from(length).unwrap_or(usize::MAX);
    if len > max {
        return Err(FrameError::TooLong { len, max });
    }
    // It grows with what arrives, not with what is announced.
    let mut body = Vec::new();
    stream.take(length.into()).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some((serde_json::from_slice(&body).map_err(FrameError::Syntax)?, len)))
}

pub(super) async fn write<T: Serialize + Sync>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    let bytes = encode(message, usize::MAX)?;
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

/// A message as it is sent.
pub(super) fn encode(message: &impl Serialize, max: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Syntax)?;
    let len = bytes.len().saturating_sub(4);
    match u32::try_from(len) {
        Ok(length) if len <= max => {
            if let Some(head) = bytes.first_chunk_mut() {
                *head = length.to_be_bytes();
            }
            Ok(bytes)
        }
        _ => Err(FrameError::TooLong { len, max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read_and_an_end_is_an_end() {
        let (mut one, mut other) = tokio::io::duplex(16);
        let text = "x".repeat(100);
        let sent = text.clone();
        let writer = tokio::spawn(async move {
            write(&mut one, &sent).await.unwrap();
            write(&mut one, &7).await.unwrap();
        });
        assert_eq!(read::<String>(&mut other, 102).await.unwrap(), Some((text, 102)));
        assert_eq!(read::<u8>(&mut other, 1).await.unwrap(), Some((7, 1)));
        writer.await.unwrap();
        assert_eq!(read::<u8>(&mut other, 1).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read_and_nonsense_is_named() {
        let (mut one, mut other) = tokio::io::duplex(1024);
        one.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let error = read::<String>(&mut other, MAX_FROM_CLUSTER).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLong { max: MAX_FROM_CLUSTER, .. }), "{error}");
        one.write_all(b"\0\0\0\x02{[").await.unwrap();
        assert!(matches!(read::<String>(&mut other, 8).await.unwrap_err(), FrameError::Syntax(_)));
        one.write_all(b"\0\0\0\x02{").await.unwrap();
        drop(one);
        assert!(matches!(read::<String>(&mut other, 8).await.unwrap_err(), FrameError::Io(_)));
        assert!(matches!(encode(&"four", 5), Err(FrameError::TooLong { len: 6, max: 5 })));
    }
}
