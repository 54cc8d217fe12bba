//! One entry of a list: `host`, `host:port`, an IPv4 or IPv6 address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::PORT;

/// Longest host name, in bytes (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// One entry and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) target: Target,
    pub(super) source: String,
}

impl Entry {
    pub(super) fn name(&self) -> Option<(String, u16)> {
        match &self.target {
            Target::Address(_) => None,
            Target::Name(host, port) => Some((host.clone(), *port)),
        }
    }
}

/// What an entry means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

impl Target {
    /// Reads an entry; the error is a sentence with the entry in it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(bad(text)) } else { Ok(Self::Address(address)) };
        }
        let unbracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = unbracketed.unwrap_or(text).parse::<Ipv6Addr>() {
            return Ok(Self::Address(SocketAddr::new(IpAddr::V6(address), PORT)));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(address, PORT)));
        }
        let (host, port) = match text.split_once(':') {
            None => (text, PORT),
            Some((host, port)) => (host, port.parse().map_err(|_| bad(text))?),
        };
        // What looks like an IPv4 address and is none would be handed to the resolver, which may read it as
        // one of the older spellings of an address.
        let numbers = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let labels = host.strip_suffix('.').unwrap_or(host).split('.');
        if host.len() > HOST_BYTES_MAX
            || numbers
            || port == 0
            || !host.bytes().all(good)
            || labels.map(str::len).any(|len| !(1..=63).contains(&len))
        {
            return Err(bad(text));
        }
        Ok(Self::Name(host.to_ascii_lowercase(), port))
    }
}

fn bad(text: &str) -> String {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    format!("`{shown}` is no address: write host, host:port, 10.0.0.7:4470 or [fd00::7]:4470")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_an_address_is_understood() {
        for (text, address) in [
            ("10.0.0.7", "10.0.0.7:4470"),
            ("10.0.0.7:1", "10.0.0.7:1"),
            ("fd00::7", "[fd00::7]:4470"),
            ("[fd00::7]", "[fd00::7]:4470"),
            ("[fd00::7]:1", "[fd00::7]:1"),
            ("[fe80::7%2]:1", "[fe80::7%2]:1"),
        ] {
            let address = address.parse().expect("a socket address");
            assert_eq!(Target::parse(text), Ok(Target::Address(address)), "{text}");
        }
        assert_eq!(Target::parse("Hal"), Ok(Target::Name("hal".into(), PORT)));
        assert_eq!(Target::parse("a_b.c-d.svc.:1"), Ok(Target::Name("a_b.c-d.svc.".into(), 1)));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_text_in_the_sentence() {
        let long = "a".repeat(64);
        for text in [
            "",
            ":",
            ":1",
            "hal:",
            "hal:0",
            "hal:65536",
            "hal:x",
            "a b",
            "a..b",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.7:0",
            "http://hal",
            "hal/",
            "é",
            "[hal]:1",
            "[fd00::7",
            "a:b:c",
            &long,
        ] {
            let said = Target::parse(text).expect_err(text);
            assert!(said.contains(&format!("`{text}`")), "{said}");
        }
    }
}
