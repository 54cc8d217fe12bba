//! Everything that was seen, merged: who is reported, under which name, and what is known of ourselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::own::Own;
use super::seen::{Key, Seen};
use super::wish::{Naming, Wish};
use crate::{Sighting, pods};

/// Most nodes that are reported.
pub(super) const SIGHTINGS_MAX: usize = 4096;

/// What is to be reported.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) sightings: Vec<Sighting>,
    /// Who is in there, for the next view: who is ending is not newly reported.
    pub(super) keys: BTreeSet<Key>,
    /// What is known of this node; nothing when it is not among those seen.
    pub(super) own_labels: Option<BTreeMap<String, String>>,
    /// How many were too many.
    pub(super) left_out: usize,
}

/// One pod, of one or several slices.
struct Merged<'a> {
    first: &'a Seen,
    addresses: BTreeSet<SocketAddr>,
    labels: BTreeMap<String, String>,
}

/// What the slices or pods come to.
pub(super) fn view<'a>(
    seen: impl Iterator<Item = &'a Seen>,
    pods: &BTreeMap<(&str, &str), &BTreeMap<String, String>>,
    wish: &Wish,
    base: &str,
    own: &Own,
    before: &BTreeSet<Key>,
) -> View {
    let mut view = View::default();
    let mut merged: BTreeMap<Key, Merged<'_>> = BTreeMap::new();
    for seen in seen {
        let more = seen.pod.as_deref().and_then(|pod| pods.get(&(seen.namespace.as_str(), pod)));
        let mut labels = seen.labels.clone();
        labels.extend(more.into_iter().flat_map(|labels| (*labels).clone()));
        if own.is(seen) {
            view.own_labels.get_or_insert_default().extend(labels);
            continue;
        }
        for (key, addresses) in seen.keys() {
            let ending = seen.terminating && !before.contains(&key);
            if ending || (wish.serving_only && !seen.serving && !before.contains(&key)) {
                continue;
            }
            let entry = merged.entry(key).or_insert_with(|| Merged {
                first: seen,
                addresses: BTreeSet::new(),
                labels: BTreeMap::new(),
            });
            entry.addresses.extend(addresses);
            entry.labels.extend(labels.clone());
        }
    }
    view.left_out = merged.len().saturating_sub(SIGHTINGS_MAX);
    for (key, Merged { first: seen, addresses, labels }) in merged.into_iter().take(SIGHTINGS_MAX) {
        let addresses: Vec<SocketAddr> = addresses.into_iter().collect();
        view.sightings.push(Sighting {
            node: name(seen, &addresses, wish, base, own),
            addresses,
            labels,
            source: match &seen.pod {
                Some(pod) if !seen.source.starts_with("pod ") => {
                    format!("{} pod {pod}", seen.source)
                }
                _ => seen.source.clone(),
            },
            ..Sighting::default()
        });
        view.keys.insert(key);
    }
    view
}

/// What the node calls itself, if it is named as `node=` says.
fn name(
    seen: &Seen,
    addresses: &[SocketAddr],
    wish: &Wish,
    base: &str,
    own: &Own,
) -> Option<String> {
    // Pods of another workload are of another app, as far as their names tell; a label tells better.
    let other = |pod: &String| {
        let own = own.pod.as_deref().map(pods::workload);
        let its = pods::workload(pod);
        own.is_some_and(|own| own != its).then(|| its.to_owned())
    };
    let guess = || seen.app.clone().or_else(|| seen.pod.as_ref().and_then(other));
    let base = match &wish.base {
        Some(base) => base.clone(),
        None => guess().map_or_else(|| base.to_owned(), |app| pods::base(&app)),
    };
    let host = match wish.naming? {
        Naming::Pod => pods::host(seen.pod.as_ref()?, Some(&seen.namespace)),
        Naming::Ip => addresses.first()?.ip().to_string(),
        // A pod is called as it is named, unless it says otherwise.
        Naming::Hostname => seen.hostname.clone().or_else(|| seen.pod.clone())?,
    };
    let clean = |c: char| if c.is_ascii_alphanumeric() || "_-.:".contains(c) { c } else { '-' };
    let host: String = host.chars().map(clean).collect();
    Some(format!("{base}@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Url;

    fn wish(url: &str) -> Wish {
        Wish::from_url(&Url::parse(url).expect("a url")).expect("a wish")
    }

    fn seen(pod: &str, address: &str) -> Seen {
        Seen {
            uid: Some(format!("uid-{pod}")),
            pod: Some(pod.to_owned()),
            namespace: "shop".to_owned(),
            addresses: vec![format!("{address}:4470").parse().expect("an address")],
            serving: true,
            source: "EndpointSlice shop/web-1".to_owned(),
            ..Seen::default()
        }
    }

    fn seen_by(url: &str, seen: &[Seen], own: &Own, before: &BTreeSet<Key>) -> View {
        view(seen.iter(), &BTreeMap::new(), &wish(url), "web", own, before)
    }

    fn addresses(view: &View) -> Vec<String> {
        view.sightings.iter().flat_map(|s| &s.addresses).map(ToString::to_string).collect()
    }

    const BARE: &str = "kubernetes://";

    #[test]
    fn both_addresses_of_a_pod_are_one_sighting() {
        let all = [
            seen("a", "10.0.0.1"),
            seen("b", "10.0.0.2"),
            seen("a", "[fd00::1]"),
            seen("b", "10.0.0.2"),
        ];
        let view = seen_by(BARE, &all, &Own::default(), &BTreeSet::new());
        assert_eq!(view.sightings.len(), 2);
        assert_eq!(addresses(&view), ["10.0.0.1:4470", "[fd00::1]:4470", "10.0.0.2:4470"]);
        assert_eq!(view.sightings[0].source, "EndpointSlice shop/web-1 pod a");
    }

    #[test]
    fn an_address_of_nobody_is_a_sighting_of_its_own() {
        let mut loose = seen("a", "10.0.0.1");
        (loose.uid, loose.pod) = (None, None);
        loose.addresses.push("10.0.0.2:4470".parse().expect("an address"));
        let view = seen_by(BARE, &[loose], &Own::default(), &BTreeSet::new());
        assert_eq!(view.sightings.len(), 2);
    }

    #[test]
    fn who_is_ending_is_not_newly_reported_and_stays_when_it_was() {
        let mut ending = seen("a", "10.0.0.1");
        let first = seen_by(BARE, &[ending.clone()], &Own::default(), &BTreeSet::new());
        assert_eq!(first.sightings.len(), 1);
        ending.terminating = true;
        assert_eq!(
            seen_by(BARE, &[ending.clone()], &Own::default(), &first.keys).sightings.len(),
            1
        );
        assert_eq!(seen_by(BARE, &[ending], &Own::default(), &BTreeSet::new()).sightings.len(), 0);
    }

    #[test]
    fn who_is_not_ready_is_there_all_the_same_unless_only_the_ready_were_asked_for() {
        let mut starting = seen("a", "10.0.0.1");
        starting.serving = false;
        let nobody = BTreeSet::new();
        assert_eq!(seen_by(BARE, &[starting.clone()], &Own::default(), &nobody).sightings.len(), 1);
        let only = "kubernetes://?serving=only";
        assert_eq!(seen_by(only, &[starting.clone()], &Own::default(), &nobody).sightings.len(), 0);
        let known = BTreeSet::from([Key::Uid("uid-a".into())]);
        assert_eq!(
            seen_by(only, &[starting], &Own::default(), &known).sightings.len(),
            1,
            "a readiness that flaps takes nobody away"
        );
    }

    #[test]
    fn nodes_are_named_as_asked_and_not_at_all_otherwise() {
        let mut one = seen("web-0", "[fd00::7]");
        let named = |url: &str, seen: &Seen| {
            let view = seen_by(url, std::slice::from_ref(seen), &Own::default(), &BTreeSet::new());
            view.sightings[0].node.clone()
        };
        assert_eq!(named(BARE, &one), None);
        assert_eq!(named("kubernetes://?node=pod", &one).as_deref(), Some("web@web-0.shop"));
        assert_eq!(named("kubernetes://?node=ip", &one).as_deref(), Some("web@fd00::7"));
        assert_eq!(named("kubernetes://?node=hostname", &one).as_deref(), Some("web@web-0"));
        one.hostname = Some("h".into());
        assert_eq!(named("kubernetes://?node=hostname&base=till", &one).as_deref(), Some("till@h"));
        one.pod = None;
        assert_eq!(named("kubernetes://?node=pod", &one), None);
    }

    #[test]
    fn the_pods_of_other_apps_are_named_as_their_nodes_name_themselves() {
        let own = Own {
            pod: Some("web-6d4cf56db6-x7x2k".into()),
            namespace: Some("shop".into()),
            ..Own::default()
        };
        let named = |url: &str, seen: &Seen| {
            let view = seen_by(url, std::slice::from_ref(seen), &own, &BTreeSet::new());
            view.sightings[0].node.clone().expect("a name")
        };
        let url = "kubernetes://?node=pod";
        let mine = "web-6d4cf56db6-zq2xk";
        assert_eq!(named(url, &seen(mine, "10.0.0.1")), format!("web@{mine}.shop"));
        assert_eq!(named(url, &seen("till-0", "10.0.0.1")), "till@till-0.shop");
        let labelled = Seen { app: Some("the.till".into()), ..seen("till-0", "10.0.0.1") };
        assert_eq!(named(url, &labelled), "the-till@till-0.shop");
        assert_eq!(named("kubernetes://?node=pod&base=x", &labelled), "x@till-0.shop");
    }

    #[test]
    fn we_are_not_reported_and_what_is_known_of_us_is_ours() {
        let own = Own { uid: Some("uid-a".into()), ..Own::default() };
        let mut us = seen("a", "10.0.0.1");
        us.labels.insert("zone".into(), "z1".into());
        us.terminating = true;
        let all = [us, seen("b", "10.0.0.2")];
        let role = BTreeMap::from([("role".to_owned(), "till".to_owned())]);
        let pods = BTreeMap::from([(("shop", "a"), &role), (("shop", "b"), &role)]);
        let view = view(all.iter(), &pods, &wish(BARE), "web", &own, &BTreeSet::new());
        assert_eq!(addresses(&view), ["10.0.0.2:4470"]);
        assert_eq!(view.sightings[0].labels.get("role").map(String::as_str), Some("till"));
        let labels = view.own_labels.expect("we are known");
        assert_eq!(
            labels.into_iter().collect::<Vec<_>>(),
            [("role".to_owned(), "till".to_owned()), ("zone".to_owned(), "z1".to_owned())]
        );
    }

    #[test]
    fn there_is_an_end_to_how_many_are_reported() {
        let many: Vec<Seen> = (0..5000).map(|n| seen(&format!("p{n}"), "10.0.0.1")).collect();
        let view = seen_by(BARE, &many, &Own::default(), &BTreeSet::new());
        assert_eq!((view.sightings.len(), view.left_out), (SIGHTINGS_MAX, 5000 - SIGHTINGS_MAX));
    }
}
