//! What the seed documents ask of each other, by calls, casts, functions and global names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{
    App, DIALECTS, Daemon, Dialect, Place, Value, bytes, eventually, json, spell, unbytes,
};

const MIB: usize = 1 << 20;

fn two_nodes() -> (Daemon, Daemon) {
    let place = Place::new();
    let (a, b) = (place.start("a", &[]), place.start("b", &[]));
    a.json().meets(&[&b]);
    b.json().meets(&[&a]);
    (a, b)
}

fn call(to: &str, body: Value) -> Value {
    json!({"op": "call", "to": to, "timeout_ms": 60_000, "body": body})
}

fn rpc(node: &str, module: &str, function: &str, body: Value) -> Value {
    json!({"op": "rpc", "node": node, "module": module, "function": function,
        "timeout_ms": 60_000, "body": body})
}

/// The body of an answer that must be `ok`.
#[track_caller]
fn body(app: &mut App, command: Value) -> Value {
    app.ok(command)["body"].take()
}

/// The error of a command that must fail: its code and whether it may have been applied.
#[track_caller]
fn error(app: &mut App, command: Value) -> (String, bool) {
    let answer = app.ask(command);
    assert_eq!(answer["ev"], "error", "{answer}");
    (answer["code"].as_str().unwrap().to_owned(), answer["maybe_applied"].as_bool().unwrap())
}

/// Serves until it is told to stop by a cast; `answer` gives what to say to each call.
fn serving(
    mut app: App,
    mut answer: impl FnMut(&mut App, &Value) -> Value + Send + 'static,
) -> JoinHandle<App> {
    thread::spawn(move || {
        loop {
            let event = app.event();
            if event["body"] == "stop" || event["ev"] == "died" {
                return app;
            }
            let body = answer(&mut app, &event);
            if !event["ref"].is_null() && event["ev"] != "cancel" && !body.is_null() {
                app.tell(json!({"op": "reply", "ref": event["ref"], "body": body[0]}));
            }
        }
    })
}

/// What byte a file has at a place.
fn content(at: usize) -> u8 {
    (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

/// Reads the frames of one answer in parts as they are, without a library: its parts, then its end.
struct Parts<'a> {
    stream: &'a std::os::unix::net::UnixStream,
    input: Vec<u8>,
}

impl Parts<'_> {
    /// Reads so much more at most. False at the end of the stream.
    fn read(&mut self, most: usize) {
        let before = self.input.len();
        self.input.resize(before + most, 0);
        let read = self.stream.read(&mut self.input[before..]).unwrap();
        assert!(read > 0, "the sidecar closed the connection");
        self.input.truncate(before + read);
    }

    /// The next whole frame: its header as it was written, and its body.
    fn cut(&mut self) -> Option<(String, Vec<u8>)> {
        let length = u32::from_be_bytes(*self.input.first_chunk::<4>()?) as usize;
        if self.input.len() < 4 + length {
            return None;
        }
        let head = usize::from(u16::from_be_bytes([self.input[4], self.input[5]]));
        let header = self.input[6..6 + head].escape_ascii().to_string();
        let body = self.input[6 + head..4 + length].to_vec();
        self.input.drain(..4 + length);
        Some((header, body))
    }
}

#[test]
fn a0_a_file_of_a_hundred_mebibytes_is_read_from_another_node_as_one_call_in_bounded_memory() {
    const PART: usize = 256 << 10;
    const PARTS: usize = 400;
    let (x, y) = two_nodes();
    let mut owner = x.cbor();
    owner.ok(json!({"op": "serve", "module": "files", "functions": ["read"]}));
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    // The owner waits for the answer of each part, as a program does that awaits its writes.
    let serving = thread::spawn(move || {
        let asked = owner.event_of("rpc");
        assert_eq!(asked["body"], "upload.bin");
        for part in 0..PARTS {
            let whole: Vec<u8> = (part * PART..(part + 1) * PART).map(content).collect();
            counter.fetch_add(PART, Ordering::SeqCst);
            owner.ok(json!({"op": "reply", "ref": asked["ref"], "more": part + 1 < PARTS,
                "ct": "application/octet-stream", "body": bytes(&whole)}));
        }
        owner
    });

    let mut job = y.cbor();
    eventually("the module is known", || {
        job.ok(json!({"op": "modules"})).to_string().contains("files")
    });
    job.begin(rpc("any", "files", "read", json!("upload.bin")));
    // Nobody reads: the owner gets so far ahead, and no further.
    eventually("the owner is ahead", || sent.load(Ordering::SeqCst) >= MIB);
    let mut parts = Parts { stream: job.stream(), input: Vec::new() };
    let (mut read, mut frames, mut ended) = (0, 0, false);
    while !ended {
        // Slowly at first.
        parts.read(if read < 2 * MIB { 4096 } else { 64 << 10 });
        while let Some((header, piece)) = parts.cut() {
            ended = header.contains("ok");
            assert!(ended || header.contains("part"), "{header}");
            let expected = (read..read + piece.len()).map(content);
            assert!(piece.iter().copied().eq(expected), "part {frames} has other bytes");
            (read, frames) = (read + piece.len(), frames + 1);
        }
        let ahead = sent.load(Ordering::SeqCst) - read;
        assert!(ahead <= 4 * MIB, "the owner is {ahead} bytes ahead of its reader");
    }
    assert_eq!((read, frames), (PARTS * PART, PARTS));
    serving.join().unwrap();
    for daemon in [&x, &y] {
        if let Some(peak) = daemon.resident_peak() {
            assert!(peak < 64 * MIB as u64, "{} had {} MiB", daemon.node, peak / MIB as u64);
        }
    }
}

#[test]
fn a0_a_file_is_streamed_by_its_owner_to_a_job_of_the_other_dialect_by_name_and_by_role() {
    const PART: usize = 100_000;
    let (x, y) = two_nodes();
    for (owner, job) in [(Dialect::Json, Dialect::Cbor), (Dialect::Cbor, Dialect::Json)] {
        let mut owner = x.app(owner);
        owner.ok(json!({"op": "register", "name": "uploads", "scope": "global"}));
        owner.ok(json!({"op": "join", "group": "uploads"}));
        let mut job = y.app(job);
        eventually("the name and the group are known", || {
            let found = job.ok(json!({"op": "whereis", "name": "uploads", "scope": "global"}));
            let members = job.ok(json!({"op": "members", "group": "uploads"}));
            found["pid"] == owner.pid.as_str() && members["members"] == json!([owner.pid])
        });
        let serving = thread::spawn(move || {
            for _ in 0..3 {
                let asked = owner.event_of("call");
                for part in 0..20 {
                    let piece: Vec<u8> = (part * PART..(part + 1) * PART).map(content).collect();
                    owner.ok(json!({"op": "reply", "ref": asked["ref"], "more": true,
                        "body": bytes(&piece)}));
                }
                owner.reply(&asked, json!("end"));
            }
            owner
        });
        for to in ["global:uploads", "group:uploads", "global:uploads"] {
            let id = job.begin(call(to, json!("invoice.pdf")));
            let mut read = Vec::new();
            let end = loop {
                let event = job.next();
                assert_eq!(event["id"], id);
                if event["ev"] != "part" {
                    break event;
                }
                read.extend_from_slice(&unbytes(&event["body"]));
            };
            assert_eq!((&end["ev"], &end["body"]), (&json!("ok"), &json!("end")));
            assert_eq!(read.len(), 20 * PART);
            assert!(read.iter().copied().eq((0..20 * PART).map(content)));
        }
        drop(serving.join().unwrap());
        eventually("the name is free again", || {
            let found = job.ok(json!({"op": "whereis", "name": "uploads", "scope": "global"}));
            found["pid"].is_null()
        });
    }
}

#[test]
fn a7_a_function_of_another_node_is_called_and_returns_its_value() {
    let (a, b) = two_nodes();
    for server in DIALECTS {
        let mut app = a.app(server);
        app.ok(json!({"op": "serve", "module": "maths", "functions": ["sum", "echo"]}));
        let running = serving(app, |_, asked| {
            let params = asked["body"].as_array().unwrap();
            match asked["function"].as_str() {
                Some("sum") => json!([params.iter().map(|n| n.as_i64().unwrap()).sum::<i64>()]),
                _ => json!([params]),
            }
        });
        for client in DIALECTS {
            for (daemon, node) in [(&a, "a@t"), (&b, "a@t"), (&b, "a"), (&a, "any"), (&b, "any")] {
                let mut app = daemon.app(client);
                eventually("the module is known", || {
                    app.ok(json!({"op": "modules"})).to_string().contains("maths")
                });
                assert_eq!(body(&mut app, rpc(node, "maths", "sum", json!([1, -2, 30]))), 29);
                let params = json!([null, {"a": [1.5, "x"]}, bytes(&[0, 255]), ""]);
                assert_eq!(body(&mut app, rpc(node, "maths", "echo", params.clone())), params);
            }
        }
        a.json().ok(json!({"op": "rpc_cast", "node": "a", "module": "maths", "function": "echo",
            "body": "stop"}));
        drop(running.join().unwrap());
        let mut app = b.json();
        eventually("the module is gone", || {
            !app.ok(json!({"op": "modules"})).to_string().contains("maths")
        });
    }
}

#[test]
fn a8_what_is_not_there_and_what_fails_says_so() {
    let (a, b) = two_nodes();
    for server in DIALECTS {
        let mut app = a.app(server);
        app.ok(json!({"op": "serve", "module": "maths", "functions": ["divide", "sum"]}));
        let running = thread::spawn(move || {
            loop {
                let asked = app.event();
                match asked["function"].as_str() {
                    Some("divide") => app.ok(json!({"op": "raise", "ref": asked["ref"],
                        "class": "ArithmeticError", "reason": "bad argument in arithmetic",
                        "stack": "maths.ex:3: Maths.divide/2"})),
                    _ => return app,
                };
            }
        });
        for client in DIALECTS {
            let mut app = b.app(client);
            eventually("the module is known", || {
                app.ok(json!({"op": "modules"})).to_string().contains("maths")
            });
            for node in ["a@t", "any"] {
                let failed = app.ask(rpc(node, "maths", "divide", json!([1, 0])));
                assert_eq!(failed["code"], "exception");
                assert_eq!(failed["class"], "ArithmeticError");
                assert_eq!(failed["reason"], "bad argument in arithmetic");
                assert_eq!(failed["stack"], "maths.ex:3: Maths.divide/2");
                assert_eq!(failed["maybe_applied"], true);

                let failed = app.ask(rpc(node, "maths", "multiply", json!([])));
                assert_eq!(
                    (&failed["code"], &failed["maybe_applied"]),
                    (&json!("undef"), &json!(false))
                );
                assert!(failed["message"].as_str().unwrap().contains("divide, sum"), "{failed}");

                let failed = app.ask(rpc(node, "math", "divide", json!([])));
                assert_eq!(
                    (&failed["code"], &failed["maybe_applied"]),
                    (&json!("undef"), &json!(false))
                );
                assert!(failed["message"].as_str().unwrap().contains("maths"), "{failed}");
            }
            let absent = rpc("nobody@t", "maths", "divide", json!([]));
            assert_eq!(error(&mut app, absent), ("noconnection".to_owned(), false));
        }
        a.json().ok(json!({"op": "rpc_cast", "node": "a", "module": "maths", "function": "sum"}));
        drop(running.join().unwrap());
        let mut app = b.json();
        eventually("the module is gone", || {
            !app.ok(json!({"op": "modules"})).to_string().contains("maths")
        });
    }
}

/// The server of the seed by calls: it owns the stock. `["add", product]` gives all of it, and so does `"status"`.
fn stock(app: App) -> JoinHandle<App> {
    let mut stock: Vec<Value> = Vec::new();
    serving(app, move |_, asked| {
        if asked["body"][0] == "add" {
            stock.insert(0, asked["body"][1].clone());
        }
        json!([stock])
    })
}

/// A store of the seed by calls: for each customer it asks the server, as many at once as come.
fn store(mut app: App, server: String) -> JoinHandle<usize> {
    thread::spawn(move || {
        let mut asking: HashMap<u64, Value> = HashMap::new();
        let mut served = 0;
        loop {
            let event = app.next();
            match event["ev"].as_str() {
                Some("call") => {
                    let id = app.begin(call(&server, json!("status")));
                    asking.insert(id, event);
                }
                Some("cast") => return served,
                Some("ok") if event["body"].is_array() => {
                    let customer = asking.remove(&event["id"].as_u64().unwrap()).unwrap();
                    let wanted = &customer["body"][1];
                    let found =
                        event["body"].as_array().unwrap().iter().find(|p| p["name"] == *wanted);
                    let missing =
                        || json!(format!("There is no Product {}", wanted.as_str().unwrap()));
                    let print = json!(["print", found.cloned().unwrap_or_else(missing)]);
                    app.tell(json!({"op": "reply", "ref": customer["ref"], "body": print}));
                    served += 1;
                }
                Some("error") => {
                    let customer = asking.remove(&event["id"].as_u64().unwrap()).unwrap();
                    app.tell(json!({"op": "raise", "ref": customer["ref"], "class": event["code"],
                        "reason": "The server is gone"}));
                    served += 1;
                }
                other => panic!("{other:?}: {event}"),
            }
        }
    })
}

const MAC: &str = "server@Gustavos-MacBook-Pro";

#[test]
fn a20_a21_a22_a23_stores_call_the_server_and_customers_call_the_stores() {
    let place = Place::new();
    let central = place.start("server", &["--name", MAC]);
    let shop = place.start("shop", &[]);
    let home = place.start("home", &[]);
    shop.json().meets(&[&central, &home]);
    home.json().meets(&[&central, &shop]);
    let server = format!("server@{MAC}");
    for dialect in DIALECTS {
        let mut owner = central.app(dialect);
        owner.ok(json!({"op": "register", "name": "server"}));
        let owner = stock(owner);
        let stores: Vec<_> = DIALECTS
            .into_iter()
            .enumerate()
            .map(|(n, dialect)| {
                let mut app = shop.app(dialect);
                app.ok(json!({"op": "register", "name": format!("store{n}")}));
                store(app, server.clone())
            })
            .collect();
        let mut customers = DIALECTS.map(|dialect| home.app(dialect));
        let nike = json!({"name": "nike", "qty": 30});
        let adidas = json!({"name": "adidas", "qty": 35});
        assert_eq!(body(&mut customers[0], call(&server, json!(["add", nike]))), json!([nike]));
        for round in 0..3 {
            for name in ["store0@shop@t", "store1@shop@t"] {
                for customer in &mut customers {
                    let print = body(customer, call(name, json!(["ask", "nike"])));
                    assert_eq!(print, json!(["print", nike]));
                    let print = body(customer, call(name, json!(["ask", "puma"])));
                    assert_eq!(print, json!(["print", "There is no Product puma"]), "{round}");
                }
            }
        }
        // The state accumulates, and what was added last stands first.
        let all = body(&mut customers[1], call(&server, json!(["add", adidas])));
        assert_eq!(all, json!([adidas, nike]));
        for (n, running) in stores.into_iter().enumerate() {
            let name = format!("store{n}@shop@t");
            let print = body(&mut customers[1], call(&name, json!(["ask", "adidas"])));
            assert_eq!(print, json!(["print", adidas]));
            customers[1].ok(json!({"op": "cast", "to": name, "body": "stop"}));
            assert_eq!(running.join().unwrap(), 13);
        }
        customers[0].ok(json!({"op": "cast", "to": server, "body": "stop"}));
        drop(owner.join().unwrap());
        let mut app = central.json();
        eventually("the name is free again", || {
            app.ok(json!({"op": "whereis", "name": "server"}))["pid"].is_null()
        });
    }
}

#[test]
fn a24_a_hundred_customers_call_each_store_at_once_and_each_gets_his_own_answer() {
    let (a, b) = two_nodes();
    let mut owner = a.cbor();
    owner.ok(json!({"op": "register", "name": "server"}));
    let owner = stock(owner);
    let stores = DIALECTS.map(|dialect| {
        let app = b.app(dialect);
        (app.pid.clone(), store(app, "server@a@t".to_owned()))
    });
    let shoe = |n: usize| json!({"name": format!("shoe{n}"), "qty": n});
    for (daemon, dialect) in [(&a, Dialect::Cbor), (&b, Dialect::Json)] {
        let mut session = daemon.app(dialect);
        if dialect == Dialect::Cbor {
            for n in 0..50 {
                session.ok(call("server@a@t", json!(["add", shoe(n)])));
            }
        }
        let customers: Vec<String> = (0..200).map(|_| session.spawn(json!({}))).collect();
        let mut asked = HashMap::new();
        for (n, customer) in customers.iter().enumerate() {
            let wanted = format!("shoe{}", n / 2);
            let mut command = call(&stores[n % 2].0, json!(["ask", wanted]));
            command["pid"] = json!(customer);
            asked.insert(session.begin(command), n / 2);
        }
        for _ in &customers {
            let answer = session.next();
            let n = asked.remove(&answer["id"].as_u64().unwrap()).expect("asked once");
            let expected = if n < 50 {
                json!(["print", shoe(n)])
            } else {
                json!(["print", format!("There is no Product shoe{n}")])
            };
            assert_eq!(answer["body"], expected);
        }
        session.nothing();
    }
    let mut session = a.json();
    for (pid, running) in stores {
        session.ok(json!({"op": "cast", "to": pid, "body": "stop"}));
        assert_eq!(running.join().unwrap(), 200);
    }
    session.ok(json!({"op": "cast", "to": "server", "body": "stop"}));
    owner.join().unwrap();
}

#[test]
fn a25_a_server_node_that_is_killed_in_the_middle_of_a_call_ends_it_as_noconnection_at_once() {
    let (mut a, b) = two_nodes();
    let mut silent = a.json();
    silent.ok(json!({"op": "register", "name": "server"}));
    let shop = b.cbor();
    let pid = shop.pid.clone();
    let running = store(shop, "server@a@t".to_owned());
    let (mut direct, mut customer) = (b.cbor(), b.json());
    // Their deadlines are far: it is the loss of the node that ends them.
    let one = direct.begin(json!({"op": "call", "to": "server@a@t", "timeout_ms": 600_000}));
    let other = customer
        .begin(json!({"op": "call", "to": pid, "timeout_ms": 600_000, "body": ["ask", "nike"]}));
    for _ in 0..2 {
        assert_eq!(silent.event()["ev"], "call");
    }
    let killed = Instant::now();
    a.kill();
    let answer = direct.answer(one);
    assert_eq!(answer["code"], "noconnection");
    assert_eq!(answer["maybe_applied"], true);
    let answer = customer.answer(other);
    assert_eq!(answer["code"], "exception", "the store passes it on: {answer}");
    assert_eq!(answer["class"], "noconnection");
    assert_eq!(answer["reason"], "The server is gone");
    // A kill is known in milliseconds; this machine may be starved.
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    let gone = error(&mut direct, call("server@a@t", json!("status")));
    assert_eq!(gone, ("noconnection".to_owned(), false));
    customer.ok(json!({"op": "cast", "to": pid, "body": "stop"}));
    assert_eq!(running.join().unwrap(), 1);
}

#[test]
fn a26_jobs_by_any_are_shared_among_all_that_serve_them_and_survive_the_end_of_one() {
    let place = Place::new();
    let (web, one, mut two) = (place.start("a", &[]), place.start("b", &[]), place.start("c", &[]));
    let mut app = web.json();
    app.meets(&[&one, &two]);
    let mut workers: Vec<App> =
        [(&one, DIALECTS[0]), (&one, DIALECTS[1]), (&two, DIALECTS[0]), (&two, DIALECTS[1])]
            .into_iter()
            .map(|(daemon, dialect)| {
                let mut app = daemon.app(dialect);
                app.ok(json!({"op": "serve", "module": "jobs", "functions": ["resize"]}));
                app
            })
            .collect();
    eventually("both nodes serve", || {
        let modules = app.ok(json!({"op": "modules"}))["modules"].take();
        let jobs = modules.as_array().unwrap().iter().find(|module| module["module"] == "jobs");
        jobs.is_some_and(|jobs| jobs["served"].as_array().unwrap().len() == 2)
    });
    // Forty at once: whoever has fewest gets the next one, so each has ten.
    let jobs: Vec<u64> =
        (0..40).map(|n| app.begin(rpc("any", "jobs", "resize", json!(n)))).collect();
    let mut done = BTreeSet::new();
    // Nobody answers before all have theirs: who has answered has fewer again.
    let take = |workers: &mut Vec<App>, each: usize| -> Vec<Vec<Value>> {
        workers.iter_mut().map(|worker| (0..each).map(|_| worker.event()).collect()).collect()
    };
    let all = take(&mut workers, 10);
    for (worker, mine) in workers.iter_mut().zip(all) {
        for job in mine {
            assert_eq!(job["ev"], "rpc");
            assert!(done.insert(job["body"].as_u64().unwrap()), "done twice");
            worker.reply(&job, json!(["resized", job["body"]]));
        }
        worker.nothing();
    }
    for (n, id) in jobs.into_iter().enumerate() {
        assert_eq!(app.answer(id)["body"], json!(["resized", n]));
    }
    // A node less: the jobs go to those that are left.
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    two.kill();
    app.event_of("nodedown");
    workers.truncate(2);
    let jobs: Vec<u64> =
        (0..10).map(|n| app.begin(rpc("any", "jobs", "resize", json!(n)))).collect();
    let all = take(&mut workers, 5);
    for (worker, mine) in workers.iter_mut().zip(all) {
        for job in mine {
            worker.reply(&job, json!("done"));
        }
    }
    for id in jobs {
        assert_eq!(app.answer(id)["body"], "done");
    }
    drop(workers);
    eventually("nobody is left", || {
        app.ask(rpc("any", "jobs", "resize", json!(1)))["code"] == "undef"
    });
}

/// The key-value store of the second seed: `set` and `delete` are casts, `get` is a call.
fn key_value_store(app: App, initial: BTreeMap<String, Value>) -> JoinHandle<App> {
    let mut state = initial;
    serving(app, move |_, asked| {
        let body = &asked["body"];
        let key = body[1].as_str().unwrap_or_default().to_owned();
        match (asked["ev"].as_str(), body[0].as_str()) {
            (Some("cast"), Some("set")) => drop(state.insert(key, body[2].clone())),
            (Some("cast"), Some("delete")) => drop(state.remove(&key)),
            (Some("call"), Some("get")) => return json!([state.get(&key)]),
            _ => panic!("{asked}"),
        }
        Value::Null
    })
}

#[test]
fn b8_b9_b10_b12_the_key_value_store_by_call_and_cast_by_every_name_from_both_nodes() {
    let (a, b) = two_nodes();
    for server in DIALECTS {
        let mut service = a.app(server);
        service.ok(json!({"op": "register", "name": "primary_store"}));
        service.ok(json!({"op": "register", "name": "primary_store", "scope": "global"}));
        let pid = service.pid.clone();
        let initial = BTreeMap::from([("seed".to_owned(), json!("from init"))]);
        let running = key_value_store(service, initial);
        let mut watcher = b.json();
        eventually("the global name is known", || {
            let found = json!({"op": "whereis", "name": "primary_store", "scope": "global"});
            watcher.ok(found)["pid"] == pid.as_str()
        });
        for client in DIALECTS {
            for (node, to) in [
                (&a, "primary_store"),
                (&a, "global:primary_store"),
                (&b, "primary_store@a@t"),
                (&b, "global:primary_store"),
                (&b, pid.as_str()),
            ] {
                let mut app = node.app(client);
                let cast = |body: Value| json!({"op": "cast", "to": to, "body": body});
                let get = |key: &str| call(to, json!(["get", key]));
                assert_eq!(body(&mut app, get("seed")), "from init");
                assert_eq!(body(&mut app, get("never")), json!(null));
                app.ok(cast(json!(["set", "foo", "bar"])));
                assert_eq!(body(&mut app, get("foo")), "bar");
                app.ok(cast(json!(["delete", "foo"])));
                assert_eq!(body(&mut app, get("foo")), json!(null));
            }
        }
        a.json().ok(json!({"op": "cast", "to": "primary_store", "body": "stop"}));
        drop(running.join().unwrap());
        for (app, scope) in [(&mut a.json(), "local"), (&mut watcher, "global")] {
            eventually("the name is free again", || {
                let found = json!({"op": "whereis", "name": "primary_store", "scope": scope});
                app.ok(found)["pid"].is_null()
            });
        }
    }
}

#[test]
fn b11_a_cast_to_a_name_that_nobody_has_elsewhere_is_ok_and_a_call_is_noproc() {
    let (a, _b) = two_nodes();
    for dialect in DIALECTS {
        let mut app = a.app(dialect);
        let wrong = "primary_key_value_store";
        for node in ["", "@a@t", "@b@t"] {
            let noproc = error(&mut app, call(&format!("{wrong}{node}"), json!(["get", "foo"])));
            assert_eq!(noproc, ("noproc".to_owned(), false));
        }
        let cast = |to: &str| json!({"op": "cast", "to": to, "body": ["set", "foo", "bar"]});
        assert_eq!(app.code(cast(wrong)), "noproc");
        for node in ["a@t", "b@t", "nobody@t"] {
            app.ok(cast(&format!("{wrong}@{node}")));
        }
        let global = format!("global:{wrong}");
        assert_eq!(error(&mut app, call(&global, json!(1))), ("noproc".to_owned(), false));
        assert_eq!(app.code(cast(&global)), "noproc");
    }
}

#[test]
fn b12_with_the_node_killed_a_cast_is_ok_and_a_call_is_noconnection() {
    let (mut a, b) = two_nodes();
    let mut service = a.json();
    service.ok(json!({"op": "register", "name": "primary_store"}));
    service.ok(json!({"op": "register", "name": "primary_store", "scope": "global"}));
    let mut app = b.cbor();
    let whereis = json!({"op": "whereis", "name": "primary_store", "scope": "global"});
    eventually("the global name is known", || !app.ok(whereis.clone())["pid"].is_null());
    app.ok(json!({"op": "monitor_nodes", "on": true}));
    let pid = service.pid.clone();
    a.kill();
    app.event_of("nodedown");
    let noconnection = ("noconnection".to_owned(), false);
    for to in ["primary_store@a@t", pid.as_str()] {
        app.ok(json!({"op": "cast", "to": to, "body": ["set", "foo", "bar"]}));
        assert_eq!(error(&mut app, call(to, json!(["get", "foo"]))), noconnection);
    }
    // The name went with its node.
    assert!(app.ok(whereis)["pid"].is_null());
    let noproc = ("noproc".to_owned(), false);
    assert_eq!(error(&mut app, call("global:primary_store", json!(["get", "foo"]))), noproc);
}

#[test]
fn b13_a_store_that_was_started_again_has_its_name_and_its_initial_state() {
    let (a, b) = two_nodes();
    let mut app = b.cbor();
    let initial = || BTreeMap::from([("seed".to_owned(), json!("from init"))]);
    for round in 0..5 {
        // The supervisor: it starts the store, gives it its name, and hears when it is gone.
        let mut service = a.app(DIALECTS[round % 2]);
        service.ok(json!({"op": "register", "name": "primary_store", "scope": "global"}));
        let pid = service.pid.clone();
        let running = key_value_store(service, initial());
        let whereis = json!({"op": "whereis", "name": "primary_store", "scope": "global"});
        eventually("the name is known", || app.ok(whereis.clone())["pid"] == pid.as_str());
        let get = |key: &str| call("global:primary_store", json!(["get", key]));
        assert_eq!(body(&mut app, get("seed")), "from init");
        assert_eq!(body(&mut app, get("foo")), json!(null), "the state died with the process");
        let monitor = app.ok(json!({"op": "monitor", "to": "global:primary_store"}))["ref"].take();
        app.ok(json!({"op": "cast", "to": "global:primary_store", "body": ["set", "foo", "bar"]}));
        assert_eq!(body(&mut app, get("foo")), "bar");
        app.ok(json!({"op": "kill", "to": pid, "reason": "crashed"}));
        let down = app.event_of("down");
        assert_eq!((&down["ref"], &down["reason"]), (&monitor, &json!("crashed")));
        // The name is free before the DOWN is told, so a supervisor may start the next one at once.
        assert!(app.ok(whereis)["pid"].is_null());
        drop(running.join().unwrap());
    }
}

#[test]
fn a_call_written_byte_by_byte_is_a_call() {
    let a = Daemon::alone(&[]);
    for dialect in DIALECTS {
        let mut service = a.app(dialect);
        service.ok(json!({"op": "register", "name": "slow"}));
        let mut app = a.app(dialect);
        let command = json!({"op": "call", "id": 77, "to": "slow", "body": ["get", "apples"]});
        for byte in spell(dialect, &command) {
            app.write_raw(&[byte]).unwrap();
        }
        let asked = service.event();
        assert_eq!(asked["body"], json!(["get", "apples"]));
        service.reply(&asked, json!(3));
        assert_eq!(app.answer(77)["body"], 3);
        service.ok(json!({"op": "unregister", "name": "slow"}));
    }
}
