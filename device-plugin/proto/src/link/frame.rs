//! Messages on a stream of bytes.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::limits::{Excess, Limits};

#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a message of {0}")]
    Excess(#[from] Excess),
    #[error("a message that this version does not know: run both parts from one image")]
    Syntax(#[source] serde_json::Error),
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// The next message and its length; `None` when the other end has closed.
pub(super) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limits: &Limits,
) -> Result<Option<(T, usize)>, FrameError> {
    let mut head = [0; 4];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = u32::from_be_bytes(head);
    let len = usize::try_from(length).unwrap_or(usize::MAX);
    if len > limits.len {
        return Err(Excess::Len(len, limits.len).into());
    }
    // It grows with what arrives, not with what is announced.
    let mut body = Vec::new();
    stream.take(length.into()).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    limits.check(&body)?;
    Ok(Some((serde_json::from_slice(&body).map_err(FrameError::Syntax)?, len)))
}

pub(super) async fn write<T: Serialize + Sync>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    limits: &Limits,
) -> Result<(), FrameError> {
    let bytes = encode(message, limits)?;
    stream.write_all(&bytes).await?;
    Ok(stream.flush().await?)
}

/// A message as it is sent.
pub(super) fn encode(message: &impl Serialize, limits: &Limits) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::Syntax)?;
    let body = bytes.get(4..).unwrap_or_default();
    limits.check(body)?;
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if let Some(head) = bytes.first_chunk_mut() {
        *head = length.to_be_bytes();
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::limits::FROM_CLUSTER;

    #[tokio::test]
    async fn what_is_written_is_read_and_an_end_is_an_end() {
        let (mut one, mut other) = tokio::io::duplex(16);
        let text = "x".repeat(100);
        let sent = text.clone();
        let writer = tokio::spawn(async move {
            write(&mut one, &sent, &FROM_CLUSTER).await.unwrap();
            write(&mut one, &7, &FROM_CLUSTER).await.unwrap();
        });
        assert_eq!(read::<String>(&mut other, &FROM_CLUSTER).await.unwrap(), Some((text, 102)));
        assert_eq!(read::<u8>(&mut other, &FROM_CLUSTER).await.unwrap(), Some((7, 1)));
        writer.await.unwrap();
        assert_eq!(read::<u8>(&mut other, &FROM_CLUSTER).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read_and_nonsense_is_named() {
        let (mut one, mut other) = tokio::io::duplex(1024);
        one.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
        let error = read::<String>(&mut other, &FROM_CLUSTER).await.unwrap_err();
        assert!(matches!(error, FrameError::Excess(Excess::Len(..))), "{error}");
        one.write_all(b"\0\0\0\x02{[").await.unwrap();
        assert!(matches!(
            read::<String>(&mut other, &FROM_CLUSTER).await.unwrap_err(),
            FrameError::Syntax(_)
        ));
        one.write_all(b"\0\0\0\x02{").await.unwrap();
        drop(one);
        assert!(matches!(read::<String>(&mut other, &FROM_CLUSTER).await.unwrap_err(), FrameError::Io(_)));
        let (mut one, mut other) = tokio::io::duplex(8);
        one.write_all(b"\0\0").await.unwrap();
        drop(one);
        assert!(matches!(read::<String>(&mut other, &FROM_CLUSTER).await.unwrap_err(), FrameError::Io(_)));
    }
}
