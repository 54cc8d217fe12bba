//! The password file of PostgreSQL's own clients: `host:port:database:user:password`, `*` for any, `\` before `:` and `\`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What is looked for.
pub(super) struct For<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password for that connection; none when no line fits. The error says what is wrong with the file.
pub(super) fn password(file: &Path, wanted: &For<'_>) -> Result<Option<String>, String> {
    let mut text = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(find(&String::from_utf8_lossy(&text), wanted))
}

fn find(text: &str, wanted: &For<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    let wanted = [wanted.host, &port, wanted.database, wanted.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line.trim_end_matches('\r'))?;
        let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        fits.then(|| fields.into_iter().next_back()).flatten()
    })
}

/// Takes a line apart; nothing, when it has not five fields.
fn fields(line: &str) -> Option<[String; 5]> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => fields.last_mut()?.extend(characters.next()),
            ':' if fields.len() < 5 => fields.push(String::new()),
            c => fields.last_mut()?.push(c),
        }
    }
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let text = "# a comment\nbad line\ndb:5432:shop:other:no\r\ndb:5432:*:shop:p\\:a\\\\ss:word\n*:*:*:*:any\n";
        let wanted = For { host: "db", port: 5432, database: "shop", user: "shop" };
        assert_eq!(find(text, &wanted).as_deref(), Some("p:a\\ss:word"));
        assert_eq!(find(text, &For { port: 1, ..wanted }).as_deref(), Some("any"));
        assert_eq!(find("db:1:a:b:c", &For { host: "x", port: 1, database: "a", user: "b" }), None);
    }
}
