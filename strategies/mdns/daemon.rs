//! One life of the multicast DNS daemon, which is a thread of `mdns-sd`: it ends when this is dropped.

use std::thread::sleep;
use std::time::Duration;

use mdns_sd::{Error, IfKind, IfPredicate, Receiver, ServiceDaemon, ServiceEvent};

use super::record::{Record, SERVICE};
use crate::interfaces::Choice;

/// How long a goodbye may take to leave. It takes a fraction of a millisecond; the bound is for a machine
/// that is busy.
const GOODBYE: Duration = Duration::from_millis(50);

/// The running daemon. Dropping it says goodbye and ends its thread.
#[must_use = "the daemon ends when this is dropped"]
pub(super) struct Daemon(ServiceDaemon);

impl Daemon {
    /// Starts it, listening first, so that our own announcement is heard too.
    pub(super) fn start(
        port: u16,
        choice: &Choice,
        record: &Record,
    ) -> mdns_sd::Result<(Self, Receiver<ServiceEvent>)> {
        let daemon = Self(ServiceDaemon::new_with_port(port)?);
        // It is started afresh when the interfaces change, so it need not look for itself.
        daemon.0.set_ip_check_interval(0)?;
        let choice = choice.clone();
        let wants = choice.clone();
        let unwanted = IfPredicate::new(move |interface| !wants.wants(interface));
        daemon.0.disable_interface(IfKind::Predicate(unwanted))?;
        let events = daemon.0.browse(SERVICE)?;
        if let Some(service) = record.service(&choice)? {
            daemon.0.register(service)?;
        }
        Ok((daemon, events))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The thread goes on for ever unless it is told to end, so a full queue is waited for a little.
        for _ in 0..50 {
            match self.0.shutdown() {
                Ok(ended) => {
                    let _ = ended.recv_timeout(GOODBYE);
                    return;
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a drop cannot await; one millisecond"
                )]
                Err(Error::Again) => sleep(Duration::from_millis(1)),
                Err(_) => return,
            }
        }
    }
}
