//! The bot of the second article: a linked task that answers messages in a loop.
//!
//! ```text
//! cargo run -q -p pillion-client --example bot -- serve
//! cargo run -q -p pillion-client --example bot -- help ADDRESS
//! cargo run -q -p pillion-client --example bot -- date ADDRESS
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pillion_client::{Client, Event, Failure, Kind, Pid, Process, Spawn};

async fn run_loop(process: Process) -> Result<(), Failure> {
    loop {
        let event = process.receive().await?;
        if event.kind() != Kind::Message {
            continue;
        }
        let (answer, from) = match event.body::<(String, Pid)>() {
            Ok((what, from)) if what == "help" => {
                let text = "You can ask me what today's date is by passing date_today";
                (text.to_owned(), Some(from))
            }
            Ok((what, from)) if what == "date_today" => {
                (format!("Today's date is {}", today()), Some(from))
            }
            Ok((_, from)) => ("Unknown message type".to_owned(), Some(from)),
            Err(_) => ("Unknown message type".to_owned(), event.from()),
        };
        if let Some(from) = from {
            process.send(&from, answer).await?;
        }
    }
}

/// The date, in UTC, as YYYY-MM-DD.
fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date(since.as_secs() / 86_400)
}

/// The day after so many of them, counted from 1970. Years begin in March here, so that a leap day is their last one.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

async fn ask(client: &Client, to: &str, what: &str) -> Result<(), Failure> {
    client.send(to, (what, client.pid())).await?;
    let wanted = |event: &Event| event.kind() == Kind::Message;
    let answer = client.receive_where_within(Duration::from_secs(5), wanted).await?;
    let answer = answer.ok_or_else(|| Failure::new("timeout", format!("{to} does not answer")))?;
    println!("{}", answer.body::<String>()?);
    Ok(())
}

async fn run(args: &[&str]) -> Result<(), Failure> {
    let client = Client::connect().await?;
    match *args {
        ["serve"] => {
            let task = client.task(Spawn::new().name("bot"), run_loop).await?;
            println!("registered as bot");
            tokio::select! {
                biased;
                () = stopped() => {}
                ended = task.result(Duration::from_secs(u64::from(u32::MAX))) => ended?,
            }
        }
        ["help", to] => ask(&client, to, "help").await?,
        ["date", to] => ask(&client, to, "date_today").await?,
        _ => return Err(Failure::new("usage", "serve | help ADDRESS | date ADDRESS")),
    }
    client.close().await?;
    Ok(())
}

/// Waits for ctrl-c or SIGTERM.
async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}: {}", failure.class, failure.reason);
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn days_are_the_dates_that_calendars_show() {
        let known =
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_779, "2026-11-22")];
        for (days, date) in known {
            assert_eq!(super::date(days), date);
        }
    }
}
