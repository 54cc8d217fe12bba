//! From text to types that cannot be wrong: durations, sizes, addresses, modes, labels.
//!
//! Every parser answers with words that say what would be right; the caller knows where the text came from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::wire::id::{BASE_BYTES_MAX, HOST_BYTES_MAX};

/// The port that nodes meet on. Below 32768, where no system hands out ports by itself.
pub const MESH_PORT: u16 = 4470;
/// The ports that are tried when [`MESH_PORT`] is taken and no port was asked for. 4471 is left out because
/// pods serve their probes there.
pub const MESH_PORTS_NEXT: std::ops::RangeInclusive<u16> = 4472..=4599;
/// Longest key of a label, in bytes; Kubernetes has the same bound for the name part of its labels.
pub const LABEL_KEY_BYTES_MAX: usize = 63;
/// Longest value of a label, in bytes.
pub const LABEL_VALUE_BYTES_MAX: usize = 255;

/// A number with a unit, in words for the author of a wrong one.
const DURATION_WORDS: &str = "a duration is a whole number and a unit: 500ms, 5s, 2m or 1h";
const SIZE_WORDS: &str =
    "a size is a whole number of bytes, or one with a unit: 65536, 64KiB, 8MiB or 1GiB";
const ADDRESS_WORDS: &str =
    "write host:port, such as 10.0.0.5:4470, [fd00::5]:4470 or stock.example.org:4470";

/// The name of a mesh: 1 to 64 letters, digits, `_` and `-`, so that it is safe in a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshName(String);

impl MeshName {
    /// Checks a mesh's name.
    ///
    /// # Errors
    /// Words for people when it has a character or a length that meshes do not have.
    pub fn new(text: &str) -> Result<Self, String> {
        if is_base(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("a mesh is called by 1 to {BASE_BYTES_MAX} letters, digits, `_` and `-`"))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MeshName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` may be the base of a node name.
pub(crate) fn is_base(text: &str) -> bool {
    (1..=BASE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The interface that a node listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// Every interface, IPv6 and IPv4.
    Any,
    /// One address.
    Ip(IpAddr),
    /// A name, looked up when it is needed and again when that failed.
    Name(String),
}

/// Where a node listens for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// On which interface.
    pub host: Host,
    /// On which port; `None` when none was asked for: then the first free one of [`Listen::ports`].
    pub port: Option<u16>,
}

impl Listen {
    /// The ports to try, in order: the one that was asked for, else 4470 and from 4472 upward.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let first = self.port.unwrap_or(MESH_PORT);
        let next = self.port.is_none().then_some(MESH_PORTS_NEXT);
        std::iter::once(first).chain(next.into_iter().flatten())
    }

    /// Reads `host:port`, `host` or `:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(port) = text.strip_prefix(':').filter(|rest| !rest.contains(':')) {
            return Ok(Self { host: Host::Any, port: Some(parse_port(port)?) });
        }
        let (host, port) = split_address(text)?;
        if port.is_none() && text.parse::<u16>().is_ok() {
            return Err(format!("write :{text} for port {text} on every interface"));
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Any, port) => write!(f, ":{}", port.unwrap_or(MESH_PORT)),
            (Host::Ip(IpAddr::V6(ip)), Some(port)) => write!(f, "[{ip}]:{port}"),
            (Host::Ip(ip), Some(port)) => write!(f, "{ip}:{port}"),
            (Host::Ip(ip), None) => write!(f, "{ip}"),
            (Host::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (Host::Name(name), None) => f.write_str(name),
        }
    }
}

/// Reads the address of another node; the port may be left out. Gives it back as `host:port`.
pub(crate) fn parse_join(text: &str) -> Result<String, String> {
    let (host, port) = split_address(text)?;
    let port = port.unwrap_or(MESH_PORT);
    if port == 0 {
        return Err(format!("nobody can be reached on port 0; {ADDRESS_WORDS}"));
    }
    if matches!(&host, Host::Ip(ip) if ip.is_unspecified()) {
        return Err(format!("nobody can be reached at {text}; {ADDRESS_WORDS}"));
    }
    Ok(Listen { host, port: Some(port) }.to_string())
}

/// An address to tell other nodes: one at which somebody else forwards to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// Where.
    pub ip: IpAddr,
    /// On which port; `None` is the one on which the node listens.
    pub port: Option<u16>,
}

impl Advertise {
    /// Reads `ip` or `ip:port`. Names are not taken: what one means may differ between here and there.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const WORDS: &str = "write an IP address at which other nodes reach this one, such as 203.0.113.7:4470 or [2001:db8::7]:4470";
        let (host, port) = split_address(text).map_err(|_| WORDS)?;
        let Host::Ip(ip) = host else { return Err(WORDS.to_owned()) };
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        if ip.is_unspecified() || ip.is_multicast() || link_local || port == Some(0) {
            return Err(format!("nobody can reach {text} from elsewhere; {WORDS}"));
        }
        Ok(Self { ip, port })
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

fn split_address(text: &str) -> Result<(Host, Option<u16>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']').ok_or(ADDRESS_WORDS)?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| ADDRESS_WORDS)?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if port.is_empty() => None,
            None => return Err(ADDRESS_WORDS.to_owned()),
        };
        return Ok((Host::Ip(ip.into()), port));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok((Host::Ip(ip), None));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok((Host::Ip(ip), port));
    }
    let good = (1..=HOST_BYTES_MAX).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    // `10.0.0.300` and `4470` are slips, not names: no top-level domain is made of digits (RFC 3696 section 2).
    let digits = host.rsplit('.').next().is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    if good && (!digits || port.is_none() && host.parse::<u16>().is_ok()) {
        Ok((Host::Name(host.to_owned()), port))
    } else {
        Err(ADDRESS_WORDS.to_owned())
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| format!("`{text}` is not a port: ports are numbers up to 65535"))
}

/// Splits `500ms` into 500 and `ms`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Reads `500ms`, `5s`, `2m`, `1h` between two bounds.
pub(crate) fn parse_duration(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text).ok_or(DURATION_WORDS)?;
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if number == 0 => 1,
        _ => return Err(DURATION_WORDS.to_owned()),
    };
    let duration = number.checked_mul(millis_per_unit).map(Duration::from_millis);
    duration
        .filter(|d| (min..=max).contains(d))
        .ok_or_else(|| format!("must be from {} to {}", show_duration(min), show_duration(max)))
}

/// Prints a duration as `parse_duration` reads it.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        0 => "0s".to_owned(),
        m if m % 3_600_000 == 0 => format!("{}h", m / 3_600_000),
        m if m % 60_000 == 0 => format!("{}m", m / 60_000),
        m if m % 1_000 == 0 => format!("{}s", m / 1_000),
        m => format!("{m}ms"),
    }
}

/// Reads `65536`, `64KiB`, `8MiB`, `1GiB` between two bounds.
pub(crate) fn parse_size(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let (number, unit) = number_and_unit(text).ok_or(SIZE_WORDS)?;
    let bytes_per_unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        // 1 MB is a million bytes to one half of mankind and 1 MiB to the other.
        "KB" | "kB" | "MB" | "GB" | "K" | "k" | "M" | "G" => {
            let letter = unit[..1].to_ascii_uppercase();
            return Err(format!("write {number}{letter}iB; {SIZE_WORDS}"));
        }
        _ => return Err(SIZE_WORDS.to_owned()),
    };
    number
        .checked_mul(bytes_per_unit)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| (min..=max).contains(bytes))
        .ok_or_else(|| format!("must be from {} to {}", show_size(min), show_size(max)))
}

/// Prints a size as `parse_size` reads it.
#[must_use]
pub fn show_size(bytes: usize) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Reads a count between two bounds; `_` may group digits, as in `65_536`.
pub(crate) fn parse_count(text: &str, min: usize, max: usize) -> Result<usize, String> {
    text.replace('_', "")
        .parse()
        .ok()
        .filter(|count| (min..=max).contains(count))
        .ok_or_else(|| format!("must be a whole number from {min} to {max}"))
}

/// Who issues certificates: an `https` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerUrl {
    /// A name or an address, without brackets.
    pub host: String,
    /// 443 when none is written.
    pub port: u16,
    /// With its leading `/`.
    pub path: String,
}

impl IssuerUrl {
    /// Host and port, as in the header `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for IssuerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

/// Reads the URL of an issuer.
pub(crate) fn parse_issuer(text: &str) -> Result<IssuerUrl, String> {
    const WORDS: &str =
        "an issuer is an https URL, such as https://pillion-injector.pillion.svc/v1/certificate";
    let rest = text.strip_prefix("https://").ok_or(WORDS)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let good = path.len() <= 1024
        && path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'"' | b'\\'));
    if authority.is_empty() || !good {
        return Err(WORDS.to_owned());
    }
    let (host, port) = split_address(authority).map_err(|_| WORDS)?;
    let host = match host {
        Host::Any => return Err(WORDS.to_owned()),
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name,
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok(IssuerUrl { host, port: port.unwrap_or(443), path: path.to_owned() })
}

/// Reads the mode of a socket: `0600`, `0660`, `0666`.
pub(crate) fn parse_mode(text: &str) -> Result<u32, String> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let mode = octal.then(|| u32::from_str_radix(text, 8).ok()).flatten();
    // The owner must be able to connect, and nothing but reading and writing means anything on a socket.
    mode.filter(|mode| mode & 0o600 == 0o600 && mode & !0o666 == 0).ok_or_else(|| {
        "a socket's mode is 0600 (only you), 0660 (your group too) or 0666 (everybody)".to_owned()
    })
}

/// Reads `true` or `false`.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Reads `key=value`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or("a label is key=value, such as zone=eu-west-1a")?;
    check_label(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

fn check_label(key: &str, value: &str) -> Result<(), String> {
    let key_good = (1..=LABEL_KEY_BYTES_MAX).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'));
    if !key_good {
        return Err(format!(
            "a label's key is 1 to {LABEL_KEY_BYTES_MAX} letters, digits, `_`, `-`, `.` and `/`"
        ));
    }
    if value.len() > LABEL_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
        return Err(format!(
            "a label's value is at most {LABEL_VALUE_BYTES_MAX} bytes without control characters"
        ));
    }
    Ok(())
}

/// Reads a strategy's URL; a bare word such as `mdns` stands for `mdns://`.
pub(crate) fn parse_strategy(text: &str) -> Result<String, String> {
    let words = "a strategy is a URL such as mdns://, local:// or list://10.0.0.5:4470,10.0.0.6:4470; \
                 several are separated by spaces in the environment";
    // A bare word may have options too: `mdns?interface=eth0`.
    let bare = text.split_at(text.find('?').unwrap_or(text.len()));
    let (scheme, rest) = text.split_once("://").unwrap_or(bare);
    let scheme_good = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let rest_good = !rest.chars().any(|c| c.is_whitespace() || c.is_control());
    if scheme_good && rest_good { Ok(format!("{scheme}://{rest}")) } else { Err(words.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Result<Duration, String> {
        parse_duration(text, Duration::ZERO, Duration::from_secs(3600))
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1 h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_duration_without_a_unit_or_out_of_bounds_is_refused_in_words() {
        for text in ["5", "", "s", "-1s", "1.5s", "1 fortnight", "99999999999999999999s"] {
            assert_eq!(duration(text), Err(DURATION_WORDS.to_owned()), "{text}");
        }
        assert_eq!(duration("2h"), Err("must be from 0s to 1h".to_owned()));
        assert_eq!(duration("9999999999999999999h"), Err("must be from 0s to 1h".to_owned()));
    }

    #[test]
    fn sizes_are_read_as_people_write_them_and_decimal_units_are_asked_about() {
        let size = |text| parse_size(text, 1, 1 << 30);
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("8 MiB"), Ok(8 << 20));
        assert_eq!(size("512"), Ok(512));
        assert!(size("8MB").is_err_and(|words| words.starts_with("write 8MiB")));
        assert_eq!(size("2GiB"), Err("must be from 1 to 1GiB".to_owned()));
        assert_eq!(size("MiB"), Err(SIZE_WORDS.to_owned()));
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for millis in [0, 1, 500, 1_000, 1_500, 60_000, 90_000, 3_600_000] {
            let shown = show_duration(Duration::from_millis(millis));
            assert_eq!(duration(&shown), Ok(Duration::from_millis(millis)), "{shown}");
        }
        for bytes in [1, 1000, 1024, 65_536, 1 << 20, 32 << 20, 1 << 30] {
            assert_eq!(parse_size(&show_size(bytes), 1, 1 << 30), Ok(bytes));
        }
        for text in [":4470", "10.0.0.5", "10.0.0.5:0", "[::1]:4470", "hal.local:9", "fd00::5"] {
            let listen = Listen::parse(text).unwrap();
            assert_eq!(listen.to_string(), text);
        }
    }

    #[test]
    fn a_port_that_was_asked_for_is_the_only_one_tried() {
        let asked = Listen::parse(":5000").unwrap();
        assert_eq!(asked.ports().collect::<Vec<_>>(), [5000]);
        let free = Listen { host: Host::Any, port: None };
        assert_eq!(free.ports().take(3).collect::<Vec<_>>(), [4470, 4472, 4473]);
    }

    #[test]
    fn an_address_that_cannot_be_meant_is_refused_in_words() {
        for text in
            ["", "a b:1", "10.0.0.5:port", "10.0.0.300:1", "[::1", "[::1]4470", "x:1:2", ":65536"]
        {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
        assert!(Listen::parse("4470").is_err_and(|words| words.starts_with("write :4470")));
        assert!(parse_join("10.0.0.5:0").is_err());
        assert!(parse_join("0.0.0.0:4470").is_err());
        assert!(parse_join(":4470").is_err());
    }

    #[test]
    fn an_address_to_advertise_is_one_that_others_can_dial() {
        for text in
            ["203.0.113.7", "203.0.113.7:9", "2001:db8::7", "[2001:db8::7]:9", "127.0.0.1:9"]
        {
            assert_eq!(Advertise::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Advertise::parse("[2001:db8::7]").unwrap().to_string(), "2001:db8::7");
        for text in [
            "",
            ":9",
            "hal",
            "hal:9",
            "0.0.0.0:9",
            "[::]:9",
            "224.0.0.1:9",
            "fe80::7",
            "10.0.0.1:0",
        ] {
            let words = Advertise::parse(text).unwrap_err();
            assert!(words.contains("203.0.113.7:4470"), "{text}: {words}");
        }
    }

    #[test]
    fn a_node_to_join_may_leave_its_port_out() {
        assert_eq!(parse_join("hal"), Ok("hal:4470".to_owned()));
        assert_eq!(parse_join("::1"), Ok("[::1]:4470".to_owned()));
        assert_eq!(parse_join("10.0.0.5:4472"), Ok("10.0.0.5:4472".to_owned()));
    }

    #[test]
    fn an_issuer_is_an_https_url_and_nothing_else() {
        for (text, shown) in [
            ("https://pillion-injector.pillion.svc/v1/certificate", None),
            ("https://10.96.0.7:8443/", None),
            ("https://[fd00::7]:8443/v1", None),
            ("https://hal", Some("https://hal/")),
            ("https://hal:443/x", Some("https://hal/x")),
        ] {
            let issuer = parse_issuer(text).unwrap();
            assert_eq!(issuer.to_string(), shown.unwrap_or(text));
        }
        for text in [
            "",
            "hal",
            "http://hal/",
            "https://",
            "https:///x",
            "https://a b/",
            "https://hal/a b",
            "https://hal/x?y",
            "https://hal:0x/",
        ] {
            assert!(parse_issuer(text).is_err_and(|words| words.contains("https URL")), "{text}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_lets_the_owner_in() {
        assert_eq!(parse_mode("0600"), Ok(0o600));
        assert_eq!(parse_mode("666"), Ok(0o666));
        for text in ["600000", "0777", "0400", "0060", "384", "0o600", "rw"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_and_strategies_are_checked_when_they_are_read() {
        assert_eq!(parse_label("zone=a=b"), Ok(("zone".to_owned(), "a=b".to_owned())));
        assert!(parse_label("zone").is_err());
        assert!(parse_label("zo ne=a").is_err());
        assert_eq!(parse_strategy("mdns"), Ok("mdns://".to_owned()));
        assert_eq!(parse_strategy("list://a:1,b:2"), Ok("list://a:1,b:2".to_owned()));
        assert_eq!(parse_strategy("mdns?a=b"), Ok("mdns://?a=b".to_owned()));
        assert!(parse_strategy("local,mdns").is_err());
    }
}
