//! Secrets that several replicas share: followed, and written only as they were read.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::Stream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, ResourceExt as _};
use tokio::time::timeout;

use super::{ANSWER, chain};
use crate::backoff::Waits;

/// The pauses before what could not be written is tried again.
pub(crate) const WAITS: Waits =
    Waits { first: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// The Secret as it is, again after each change; nothing when there is none. Errors are tried again, later and later.
pub(crate) fn follow(
    api: &Api<Secret>,
    name: &str,
) -> impl Stream<Item = watcher::Result<Option<Secret>>> + Send + use<> {
    watch_object(api.clone(), name).default_backoff()
}

/// A text of the Secret's; nothing when it is absent, empty or no text.
pub(crate) fn text<'a>(secret: Option<&'a Secret>, key: &str) -> Option<&'a str> {
    let bytes = &secret?.data.as_ref()?.get(key)?.0;
    std::str::from_utf8(bytes).ok().filter(|text| !text.trim().is_empty())
}

/// How a write ended that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Somebody else wrote first: what they wrote comes by [`follow`].
    Outrun,
}

/// Puts these texts into the Secret, beside what else is in it, if it is still as it was found.
///
/// # Errors
/// What went wrong, in words; nothing is written then, or it is not known.
pub(crate) async fn write(
    api: &Api<Secret>,
    name: &str,
    found: Option<&Secret>,
    texts: &[(&str, String)],
) -> Result<Written, String> {
    // With the resource version that was found: the API server refuses it when it is another one by now.
    let mut secret = found.cloned().unwrap_or_default();
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.managed_fields = None;
    let data = secret.data.get_or_insert_with(BTreeMap::new);
    for (key, text) in texts {
        data.insert((*key).to_owned(), ByteString(text.clone().into_bytes()));
    }
    let params = PostParams::default();
    let write = async {
        if found.is_some() {
            api.replace(&secret.name_any(), &params, &secret).await
        } else {
            api.create(&params, &secret).await
        }
    };
    match timeout(ANSWER, write).await {
        Ok(Ok(_)) => Ok(Written::Done),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
            Ok(Written::Outrun)
        }
        Ok(Err(error)) => Err(format!("the Secret {name} cannot be written: {}", chain(&error))),
        Err(_) => {
            Err(format!("the Secret {name} cannot be written: the API server does not answer"))
        }
    }
}
