//! `pillion events`: nodes that come and go, processes that die, as it happens.

use std::time::{SystemTime, UNIX_EPOCH};

use super::connection::{Connection, Heard};
use super::exit::{Exit, Failure};
use super::output::note;
use super::{Globals, clean};
use crate::client::{Event, Op, WINDOW};

pub(super) async fn events(globals: &Globals) -> Result<(), Failure> {
    let mut connection = Connection::open(globals, "events", WINDOW).await?;
    connection.request(Op::new("monitor_nodes").bool("on", true)).await?;
    match connection.request(Op::new("monitor_deaths").bool("on", true)).await {
        Err(failure) if failure.exit == Exit::Denied => {
            note(
                "deaths of processes are for operators and left out: use the socket NAME.operator.sock beside this one",
            );
        }
        result => drop(result?),
    }
    note(&format!("watching {}; ctrl-c ends", connection.node));
    loop {
        match connection.hear(None).await? {
            Heard::Event(event) => connection.output.tell(&event, || line(&event))?,
            Heard::Enough | Heard::Nothing => return connection.close().await,
        }
    }
}

/// `12:03:04Z nodedown b@hal: shutdown`
fn line(event: &Event) -> String {
    let text = |key| event.text(key);
    let name = text("name").map(|name| format!(" ({name})")).unwrap_or_default();
    let reason = text("reason").map(|reason| format!(": {reason}")).unwrap_or_default();
    let whom = text("node").or(text("pid"));
    let known = matches!(event.name(), "nodeup" | "nodedown" | "died");
    let words = match whom {
        Some(whom) if known => format!("{} {whom}{name}{reason}", event.name()),
        _ => event.to_json(),
    };
    format!("{} {}", time_of_day(SystemTime::now()), clean(&words))
}

fn time_of_day(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
