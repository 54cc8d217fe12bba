//! What holds for any input: the words that come from outside are read without a panic, within their bounds, and come
//! out as they went in.

use pillion::wire::id::{
    Address, BASE_BYTES_MAX, HOST_BYTES_MAX, Incarnation, NAME_BYTES_MAX, Node, NodeName, Pid,
    PidText, check_name,
};
use pillion::wire::message::{Frame, FrameError, HEAD_BYTES, Kind, finish, start};
use proptest::collection::vec;
use proptest::prelude::*;

const LIMIT: usize = 4096;

fn kind() -> impl Strategy<Value = Kind> {
    any::<u8>().prop_filter_map("a kind of this build", Kind::from_u8)
}

fn node_name() -> impl Strategy<Value = NodeName> {
    ("[A-Za-z0-9_-]{1,64}", "[A-Za-z0-9_.:-]{1,255}")
        .prop_map(|(base, host)| NodeName::new(&base, &host).unwrap())
}

fn pid() -> impl Strategy<Value = Pid> {
    (node_name(), any::<u64>(), any::<u64>()).prop_map(|(name, incarnation, serial)| Pid {
        node: Node { name, incarnation: Incarnation(incarnation) },
        serial,
    })
}

/// Texts made of what identifiers are made of, which get further into the parsers than any text does.
fn almost_an_address() -> impl Strategy<Value = String> {
    vec(
        prop_oneof![
            Just("<"),
            Just(">"),
            Just("@"),
            Just("."),
            Just(":"),
            Just("global:"),
            Just("group:"),
            Just("stock"),
            Just("hal"),
            Just("19b3f0c2a4e5f3c9"),
            Just("0"),
            Just("112"),
            Just("18446744073709551616"),
            Just(" "),
            Just("ü"),
            Just("\u{1f980}"),
            Just("\0"),
        ],
        0..12,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn cut_never_panics_and_never_takes_more_than_there_is(
        bytes in vec(any::<u8>(), 0..200),
        limit in 0..LIMIT,
    ) {
        if let Ok(Some((frame, taken))) = Frame::cut(&bytes, limit) {
            prop_assert!(taken <= bytes.len());
            prop_assert_eq!(taken, 4 + HEAD_BYTES + frame.payload.len());
            prop_assert!(taken - 4 <= limit);
        }
    }

    #[test]
    fn cut_reads_plausible_lengths_by_the_rules(
        length in 0..200_u32,
        rest in vec(any::<u8>(), 0..200),
        limit in 0..200_usize,
    ) {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&rest);
        let announced = length as usize;
        match Frame::cut(&bytes, limit) {
            Err(FrameError::TooLarge { length, .. }) => {
                prop_assert_eq!(length, announced);
                prop_assert!(announced > limit);
            }
            Err(FrameError::TooShort(length)) => {
                prop_assert_eq!(length, announced);
                prop_assert!(announced < HEAD_BYTES);
            }
            Err(other) => prop_assert!(false, "cut gave {other}"),
            Ok(None) => prop_assert!(rest.len() < announced),
            Ok(Some((_, taken))) => prop_assert_eq!(taken, 4 + announced),
        }
    }

    #[test]
    fn what_was_started_and_finished_is_cut_again(
        frames in vec((kind(), any::<u8>(), any::<u64>(), vec(any::<u8>(), 0..300)), 0..5),
        before in vec(any::<u8>(), 0..20),
        tail in 0..14_usize,
    ) {
        let mut out = before.clone();
        for (kind, flags, serial, payload) in &frames {
            let at = start(&mut out, *kind, *flags, *serial);
            out.extend_from_slice(payload);
            finish(&mut out, at);
        }
        // The start of one more frame, which is not all there.
        let at = start(&mut out, Kind::Beat, 0, 0);
        finish(&mut out, at);
        out.truncate(at + tail.min(out.len() - at - 1));

        let mut rest = &out[before.len()..];
        for (kind, flags, serial, payload) in &frames {
            let (frame, taken) = Frame::cut(rest, LIMIT).unwrap().unwrap();
            prop_assert_eq!(Kind::from_u8(frame.kind), Some(*kind));
            prop_assert_eq!((frame.flags, frame.serial), (*flags, *serial));
            prop_assert_eq!(frame.payload, payload.as_slice());
            rest = &rest[taken..];
        }
        prop_assert_eq!(Frame::cut(rest, LIMIT), Ok(None));
    }

    #[test]
    fn a_frame_that_is_cut_short_anywhere_waits_for_the_rest(
        payload in vec(any::<u8>(), 0..100),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut out = Vec::new();
        let at = start(&mut out, Kind::Send, 0, 7);
        out.extend_from_slice(&payload);
        finish(&mut out, at);
        prop_assert_eq!(Frame::cut(&out[..cut.index(out.len())], LIMIT), Ok(None));
    }

    #[test]
    fn every_kind_is_its_own_number(byte in any::<u8>()) {
        if let Some(kind) = Kind::from_u8(byte) {
            prop_assert_eq!(kind as u8, byte);
        }
    }

    #[test]
    fn a_pid_reads_as_it_was_printed(pid in pid()) {
        let text = pid.to_string();
        prop_assert_eq!(&text.parse::<Pid>().unwrap(), &pid);
        let address = Address::parse(&text).unwrap();
        let read = PidText::parse(&text).unwrap();
        prop_assert_eq!(address, Address::Pid(read));
        prop_assert_eq!(read.node, pid.node.name.as_str());
        prop_assert_eq!(read.incarnation, pid.node.incarnation);
        prop_assert_eq!(read.serial, pid.serial);
    }

    #[test]
    fn no_two_texts_are_one_pid(text in almost_an_address()) {
        if let Ok(pid) = text.parse::<Pid>() {
            prop_assert_eq!(pid.to_string(), text);
        }
    }

    #[test]
    fn a_node_name_is_its_base_and_its_host(base in "[A-Za-z0-9_-]{1,64}", host in "[A-Za-z0-9_.:-]{1,255}") {
        let name = NodeName::new(&base, &host).unwrap();
        prop_assert_eq!((name.base(), name.host()), (base.as_str(), host.as_str()));
        prop_assert_eq!(name.to_string().parse::<NodeName>().unwrap(), name);
    }

    #[test]
    fn a_node_name_out_of_bounds_is_refused(base in 0..140_usize, host in 0..600_usize) {
        let made = NodeName::new(&"b".repeat(base), &"h".repeat(host));
        let good = (1..=BASE_BYTES_MAX).contains(&base) && (1..=HOST_BYTES_MAX).contains(&host);
        prop_assert_eq!(made.is_ok(), good);
    }

    #[test]
    fn any_text_makes_a_clean_node_name(base in any::<String>(), host in any::<String>()) {
        let (base, host) = (NodeName::clean_base(&base), NodeName::clean_host(&host));
        prop_assert!(NodeName::new(&base, &host).is_ok());
        prop_assert_eq!(NodeName::clean_base(&base), base);
        prop_assert_eq!(NodeName::clean_host(&host), host);
    }

    #[test]
    fn any_text_is_an_address_or_an_error(text in any::<String>()) {
        check_address(&text)?;
    }

    #[test]
    fn almost_an_address_is_an_address_or_an_error(text in almost_an_address()) {
        check_address(&text)?;
    }

    #[test]
    fn an_error_quotes_only_the_beginning_of_what_it_got(text in "[ü@<]{0,2000}") {
        for error in [
            text.parse::<NodeName>().map(drop).err(),
            text.parse::<Pid>().map(drop).err(),
            check_name(&text).map(drop).err(),
        ].into_iter().flatten() {
            prop_assert!(error.to_string().len() < 700);
        }
    }

    #[test]
    fn names_within_their_bounds_are_names(text in "[a-zä\u{1f980}]{0,300}") {
        prop_assert_eq!(check_name(&text).is_ok(), (1..=NAME_BYTES_MAX).contains(&text.len()));
    }

    #[test]
    fn a_name_with_one_bad_character_is_none(
        before in "[a-z]{0,5}",
        bad in prop_oneof![Just('@'), Just('<'), Just('>'), Just(' '), Just('\n'), Just('\0'), Just('\u{a0}'), Just('\u{7f}')],
        after in "[a-z]{0,5}",
    ) {
        let name = format!("{before}{bad}{after}");
        prop_assert!(check_name(&name).is_err());
    }

    #[test]
    fn a_name_elsewhere_splits_at_its_first_at(name in "[a-z]{1,20}", node in node_name()) {
        let text = format!("{name}@{node}");
        prop_assert_eq!(
            Address::parse(&text).unwrap(),
            Address::Remote { name: &name, node: node.as_str() }
        );
        let bare = format!("{name}@{}", node.base());
        prop_assert_eq!(
            Address::parse(&bare).unwrap(),
            Address::Remote { name: &name, node: node.base() }
        );
    }

    #[test]
    fn an_incarnation_reads_as_it_was_printed(number in any::<u64>(), text in "[0-9a-fA-F+]{0,20}") {
        let incarnation = Incarnation(number);
        prop_assert_eq!(Incarnation::parse(&incarnation.to_string()), Some(incarnation));
        if let Some(read) = Incarnation::parse(&text) {
            prop_assert_eq!(read.to_string(), text);
        }
    }
}

/// Whatever an address is, its parts are parts of the text and names are names.
fn check_address(text: &str) -> Result<(), TestCaseError> {
    match Address::parse(text) {
        Err(_) => {}
        Ok(Address::Pid(pid)) => {
            let printed = format!("<{}.{}.{}>", pid.node, pid.incarnation, pid.serial);
            prop_assert_eq!(printed, text);
        }
        Ok(Address::Local(name)) => prop_assert_eq!(check_name(name).unwrap(), text),
        Ok(Address::Remote { name, node }) => {
            check_name(name).unwrap();
            prop_assert_eq!(format!("{name}@{node}"), text);
        }
        Ok(Address::Global(name)) => {
            check_name(name).unwrap();
            prop_assert_eq!(format!("global:{name}"), text);
        }
        Ok(Address::Group(name)) => {
            check_name(name).unwrap();
            prop_assert_eq!(format!("group:{name}"), text);
        }
    }
    Ok(())
}
