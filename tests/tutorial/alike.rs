//! What may differ between a page and what is printed, and nothing else may: names that are given anew on every run.
//!
//! Ports, incarnations, pids, processes of the system and references stand for something: wherever the page has the same one, the same one must
//! be printed, and the other way round. A time and a date only have their form, blanks only separate.

use std::path::Path;

/// The pairs of what the page says and what it was in this run.
#[derive(Clone)]
pub(crate) struct Alike {
    known: Vec<(Kind, String, String)>,
    /// What is printed here, and what a page says instead: in this order.
    places: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Blank,
    Time,
    Date,
    Port,
    Address,
    Incarnation,
    Serial,
    Reference,
    Program,
    Job,
}

struct Piece<'a> {
    kind: Kind,
    text: &'a str,
    /// What it is known by: a serial is its node's.
    key: String,
}

impl Alike {
    /// `host` is this machine's name, `directory` the local directory of the nodes. A page says `vm` and `/tmp/pillion-1000`.
    pub(crate) fn new(host: &str, directory: &Path) -> Self {
        let places = vec![
            (directory.display().to_string(), "/tmp/pillion-1000".to_owned()),
            // It is not printed, but typed.
            (directory.display().to_string(), "/tmp/pillion-$(id -u)".to_owned()),
            (format!("@{host}"), "@vm".to_owned()),
        ];
        Self { known: Vec::new(), places }
    }

    /// Whether a line that was printed is the one on the page. If so, what stands for something in it is known from now on.
    pub(crate) fn same(&mut self, said: &str, printed: &str) -> bool {
        let printed = self.placed(printed);
        let (said, printed) = (pieces(said), pieces(&printed));
        if said.len() != printed.len() {
            return false;
        }
        let mut learnt = self.known.clone();
        for (said, printed) in said.iter().zip(&printed) {
            let fits = said.kind == printed.kind
                && match said.kind {
                    Kind::Plain => said.text == printed.text,
                    Kind::Port => {
                        // A node says which port it has got; another one may have had it before.
                        learnt.retain(|(kind, s, r)| {
                            *kind != Kind::Port || (*s != said.key && *r != printed.key)
                        });
                        pair(&mut learnt, Kind::Port, &said.key, &printed.key)
                    }
                    Kind::Address => pair(&mut learnt, Kind::Port, &said.key, &printed.key),
                    Kind::Blank | Kind::Time | Kind::Date | Kind::Job => true,
                    kind => pair(&mut learnt, kind, &said.key, &printed.key),
                };
            if !fits {
                return false;
            }
        }
        self.known = learnt;
        true
    }

    /// What the page says to type, with what its names stand for in this run.
    pub(crate) fn typed(&self, said: &str) -> String {
        let known = |kind, key: &str| {
            self.known.iter().find(|(k, s, _)| *k == kind && s == key).map(|(_, _, real)| &**real)
        };
        let mut typed = put(said, known);
        for (real, said) in &self.places {
            typed = typed.replace(said, real);
        }
        typed
    }

    /// What was printed, as a page says it.
    pub(crate) fn written(&self, printed: &str) -> String {
        let known = |kind, key: &str| {
            self.known.iter().find(|(k, _, r)| *k == kind && r == key).map(|(_, said, _)| &**said)
        };
        put(&self.placed(printed), known)
    }

    fn placed(&self, printed: &str) -> String {
        let mut placed = printed.to_owned();
        for (real, said) in &self.places {
            placed = placed.replace(real, said);
        }
        placed
    }
}

/// Whether these two stand for each other, or may from now on.
fn pair(known: &mut Vec<(Kind, String, String)>, kind: Kind, said: &str, real: &str) -> bool {
    let found = known.iter().find(|(k, s, r)| *k == kind && (s == said || r == real));
    match found {
        Some((_, s, r)) => s == said && r == real,
        None => {
            known.push((kind, said.to_owned(), real.to_owned()));
            true
        }
    }
}

/// A line with other names, where there are some.
fn put<'a>(line: &str, known: impl Fn(Kind, &str) -> Option<&'a str>) -> String {
    let mut all = String::new();
    for piece in pieces(line) {
        let kind = if piece.kind == Kind::Address { Kind::Port } else { piece.kind };
        let Some(other) = known(kind, &piece.key) else {
            all.push_str(piece.text);
            continue;
        };
        // An address keeps its host, and a serial is written without the incarnation that is before it already.
        let host = piece.text.rfind(':').filter(|_| piece.kind == Kind::Address);
        all.push_str(host.map_or("", |colon| &piece.text[..=colon]));
        let other = if kind == Kind::Serial { other.rsplit('.').next() } else { Some(other) };
        all.push_str(other.unwrap_or_default());
    }
    all
}

fn pieces(line: &str) -> Vec<Piece<'_>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut at = 0;
    let mut incarnation = "";
    while at < line.len() {
        let (before, rest) = line.split_at(at);
        let (kind, length) = special(before, rest);
        let text = &rest[..length];
        at += length;
        let mut key = text.to_owned();
        match kind {
            Kind::Incarnation => incarnation = text,
            Kind::Serial => key = format!("{incarnation}.{text}"),
            Kind::Address => text.rsplit(':').next().unwrap_or_default().clone_into(&mut key),
            Kind::Plain => {
                // Words grow letter by letter.
                if let Some(previous) = pieces.last_mut().filter(|piece| piece.kind == kind) {
                    previous.text = &line[at - length - previous.text.len()..at];
                    continue;
                }
            }
            _ => {}
        }
        pieces.push(Piece { kind, text, key });
    }
    pieces
}

/// What begins here, and how long it is.
fn special(before: &str, rest: &str) -> (Kind, usize) {
    let run = |wanted: fn(char) -> bool| rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    let fits = |form: &str| {
        rest.len() >= form.len()
            && form.bytes().zip(rest.bytes()).all(|(form, byte)| match form {
                b'9' => byte.is_ascii_digit(),
                _ => byte == form,
            })
    };
    let digits = run(|c| c.is_ascii_digit());
    let hexes = run(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    let within = before.chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric());
    let blanks = run(|c| c == ' ');
    if blanks > 0 {
        return (Kind::Blank, blanks);
    }
    if fits("9999-99-99T99:99:99.999999Z") {
        return (Kind::Time, 27);
    }
    if fits("9999-99-99") && !within {
        return (Kind::Date, 10);
    }
    if hexes == 16 && !within {
        return (Kind::Incarnation, 16);
    }
    // All addresses of the machine, or the one at which only it is reached.
    if let Some(address) = ["127.0.0.1:", "[::]:"].iter().find(|place| rest.starts_with(**place)) {
        let port = rest[address.len()..].bytes().take_while(u8::is_ascii_digit).count();
        if port > 0 {
            return (Kind::Address, address.len() + port);
        }
    }
    if digits > 0 && !within {
        let is_serial = before.len() >= 17
            && before.ends_with('.')
            && before.is_char_boundary(before.len() - 17)
            && before[before.len() - 17..before.len() - 1].bytes().all(|b| b.is_ascii_hexdigit())
            && rest[digits..].starts_with('>');
        if is_serial {
            return (Kind::Serial, digits);
        }
        if before.ends_with("port ") {
            return (Kind::Port, digits);
        }
        if before.ends_with("os pid ") {
            return (Kind::Program, digits);
        }
        if ["ref=", "ref "].iter().any(|word| before.ends_with(word)) {
            return (Kind::Reference, digits);
        }
        let is_job = before.starts_with('[') && before.ends_with("] ") && rest.len() == digits;
        if is_job {
            return (Kind::Job, digits);
        }
    }
    (Kind::Plain, rest.chars().next().map_or(0, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alike() -> Alike {
        Alike::new("europa", Path::new("/tmp/x/d"))
    }

    #[test]
    fn what_is_given_anew_on_every_run_may_differ() {
        let mut alike = alike();
        assert!(alike.same(
            "2026-11-21T08:45:10.909382Z  INFO stock@vm is up: port 4470, socket /tmp/pillion-1000/default/stock.sock",
            "2027-01-02T03:04:05.000006Z INFO stock@europa is up: port 39121, socket /tmp/x/d/default/stock.sock",
        ));
        assert!(alike.same("Today's date is 2026-11-21", "Today's date is 2027-01-02"));
        assert!(alike.same("a  b", "a b"));
        assert_eq!(alike.typed("connect 127.0.0.1:4470"), "connect 127.0.0.1:39121");
        assert_eq!(alike.written("at 127.0.0.1:39121"), "at 127.0.0.1:4470");
        assert!(alike.same("stock@vm  self  [::]:4470", "stock@europa  self  127.0.0.1:39121"));
        assert!(!alike.same("[::]:4472", "127.0.0.1:39121"));
        assert_eq!(alike.typed("cd /tmp/pillion-$(id -u)/default"), "cd /tmp/x/d/default");
    }

    #[test]
    fn one_pid_on_the_page_is_one_pid_of_the_run() {
        let mut alike = alike();
        assert!(alike.same("<a@vm.1a1fd47e97b97ccb.102> 1", "<a@europa.1b00000000000001.100> 1"));
        assert!(alike.same("<a@vm.1a1fd47e97b97ccb.103>", "<a@europa.1b00000000000001.105>"));
        assert!(!alike.same("<a@vm.1a1fd47e97b97ccb.102>", "<a@europa.1b00000000000001.105>"));
        assert!(!alike.same("<a@vm.1a1fd47e97b97ccb.104>", "<a@europa.1b00000000000001.100>"));
        assert!(!alike.same("<a@vm.1a1fd47e97b97cff.102>", "<a@europa.1b00000000000001.100>"));
        assert_eq!(
            alike.typed("send <a@vm.1a1fd47e97b97ccb.102> 1"),
            "send <a@europa.1b00000000000001.100> 1"
        );
    }

    #[test]
    fn nothing_else_may_differ() {
        let mut alike = alike();
        for (said, printed) in [
            ("pong", "pang"),
            ("<a@vm.1a1fd47e97b97ccb.102>", "<b@europa.1b00000000000001.100>"),
            ("[]", ""),
            ("{\"qty\":30}", "{\"qty\":31}"),
            ("port 4470", "port none"),
            ("2026-11-21", "2026-11-2"),
        ] {
            assert!(!alike.same(said, printed), "{said} {printed}");
        }
    }
}
