use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

use super::v1beta1::{Device, ListAndWatchResponse};
use super::{DeviceHandle, Health, ResourceName};

/// The contents of a resource's device list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Advertised {
    /// The only device, and its health.
    Device(Health),
    /// The spoke is removed: an empty list sets the resource to zero, then the stream ends.
    Gone,
    /// The daemon stops: the stream ends without a last list, so that the kubelet keeps the resource for its grace
    /// period and a new daemon takes over.
    Closing,
}

/// The beginning or end of a ListAndWatch call.
#[derive(Debug)]
pub(super) struct StreamEvent {
    pub(super) resource: ResourceName,
    pub(super) stream: u64,
    pub(super) open: bool,
}

/// The answer to one ListAndWatch call: the current list, then each changed list.
pub(super) struct DeviceLists {
    handed: DeviceHandle,
    id: u64,
    changes: WatchStream<Advertised>,
    last: Option<Advertised>,
    events: mpsc::UnboundedSender<StreamEvent>,
}

impl DeviceLists {
    pub(super) fn new(
        handed: DeviceHandle,
        id: u64,
        changes: WatchStream<Advertised>,
        events: mpsc::UnboundedSender<StreamEvent>,
    ) -> Self {
        let lists = Self { handed, id, changes, last: None, events };
        lists.report(true);
        lists
    }

    fn report(&self, open: bool) {
        // There is no receiver only while the daemon stops.
        let _ =
            self.events.send(StreamEvent { resource: self.handed.resource.clone(), stream: self.id, open });
    }

    fn list(&self, health: &Health) -> ListAndWatchResponse {
        let health = match health {
            Health::Healthy => "Healthy",
            Health::Unhealthy { .. } => "Unhealthy",
        };
        let device = Device { id: self.handed.spoke.to_string(), health: health.to_owned(), topology: None };
        ListAndWatchResponse { devices: vec![device] }
    }
}

impl Stream for DeviceLists {
    type Item = Result<ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if matches!(self.last, Some(Advertised::Gone)) {
                return Poll::Ready(None);
            }
            let Some(next) = std::task::ready!(Pin::new(&mut self.changes).poll_next(cx)) else {
                return Poll::Ready(None);
            };
            let list = match &next {
                Advertised::Closing => return Poll::Ready(None),
                Advertised::Gone => ListAndWatchResponse::default(),
                Advertised::Device(health) => self.list(health),
            };
            // The reason may change while the health, which is all that the kubelet sees, stays.
            let same = match (&self.last, &next) {
                (Some(Advertised::Device(last)), Advertised::Device(next)) => {
                    std::mem::discriminant(last) == std::mem::discriminant(next)
                }
                _ => false,
            };
            self.last = Some(next);
            if !same {
                return Poll::Ready(Some(Ok(list)));
            }
        }
    }
}

impl Drop for DeviceLists {
    fn drop(&mut self) {
        self.report(false);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio_stream::StreamExt;

    use super::*;

    fn pod1() -> DeviceHandle {
        "pod1".parse::<net_types::SpokeName>().unwrap().into()
    }

    fn unhealthy(reason: &str) -> Advertised {
        Advertised::Device(Health::Unhealthy { reason: reason.into() })
    }

    #[tokio::test]
    async fn sends_what_changes_and_zero_at_the_end() {
        let (sender, receiver) = watch::channel(Advertised::Device(Health::Healthy));
        let (events, mut reported) = mpsc::unbounded_channel();
        let mut lists = DeviceLists::new(pod1(), 7, WatchStream::new(receiver), events);
        assert!(reported.recv().await.unwrap().open);
        assert_eq!(lists.next().await.unwrap().unwrap().devices[0].health, "Healthy");
        sender.send_replace(unhealthy("underlay eth1 is missing"));
        let list = lists.next().await.unwrap().unwrap();
        assert_eq!((list.devices[0].id.as_str(), list.devices[0].health.as_str()), ("pod1", "Unhealthy"));
        sender.send_replace(unhealthy("underlay eth1 has no IPv6"));
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(50), lists.next()).await;
        assert!(quiet.is_err(), "another reason is no change to the kubelet: {quiet:?}");
        sender.send_replace(Advertised::Gone);
        assert!(lists.next().await.unwrap().unwrap().devices.is_empty());
        assert!(lists.next().await.is_none());
        drop(lists);
        let end = reported.recv().await.unwrap();
        assert!(!end.open && end.stream == 7);
    }

    #[tokio::test]
    async fn a_stopping_daemon_does_not_take_its_devices_back() {
        let (sender, receiver) = watch::channel(Advertised::Device(Health::Healthy));
        let (events, _reported) = mpsc::unbounded_channel();
        let mut lists = DeviceLists::new(pod1(), 1, WatchStream::new(receiver), events);
        lists.next().await.unwrap().unwrap();
        sender.send_replace(Advertised::Closing);
        assert!(lists.next().await.is_none());
    }
}
