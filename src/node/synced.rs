//! Other nodes first: what a node hosts may wait until certain ones are up, as Erlang's applications do.
//!
//! It asks as any app does, by `wait_for` on the app socket.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::{Client, ClientError, Op};
use crate::config::SyncNodes;
use crate::wire::command::Delivery;
use crate::wire::id::NodeName;

/// The pause before a wait that failed begins again.
const AGAIN: Duration = Duration::from_secs(1);

/// Completes when the mandatory nodes are up, and the optional ones too or their time is over. Cancel safe.
///
/// A mandatory node that does not come is told in the log each time the timeout is over, and waited for on.
pub(super) async fn synced(socket: &Path, sync: &SyncNodes) {
    let until = Instant::now() + sync.timeout;
    while let Err(error) = wait_for(socket, &sync.mandatory, sync.timeout).await {
        tracing::warn!(
            "nothing that this node hosts starts yet ({} is set): {error}. `pillion nodes` says why",
            crate::config::Key::SyncNodesMandatory
        );
        if error.code() != Some("timeout") {
            sleep(AGAIN).await;
        }
    }
    let left = until.saturating_duration_since(Instant::now());
    if let Err(error) = wait_for(socket, &sync.optional, left).await {
        tracing::warn!("what this node hosts starts without some optional nodes: {error}");
    }
}

async fn wait_for(socket: &Path, nodes: &[NodeName], timeout: Duration) -> Result<(), ClientError> {
    if nodes.is_empty() {
        return Ok(());
    }
    let client = Client::connect(socket).await?;
    client.hello("pillion up", Delivery::Pull).await?;
    let nodes: Vec<_> = nodes.iter().map(NodeName::as_str).collect();
    let op = Op::new("wait_for")
        .json("nodes", &nodes.into())
        .uint("timeout_ms", u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    client.request(op).await?;
    client.close().await
}
