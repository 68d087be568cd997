//! The tools for replicated servers, by real programs: a master, two replicas and three of Debian's Sentinels, in
//! hosts of their own, while masters are killed, stopped and cut off under load.
//!
//! What is asserted holds for any replication that answers before it has copied; what such a one loses is printed.

use compat_tests::histories::{Find, History, Load, Plan, Verdict, check, read};
use compat_tests::hosts::{Host, Network};
use compat_tests::node::{Node, Product};
use compat_tests::proxy::{Cut, LINE_BYTES_MAX, Link, Proxy, Way};
use compat_tests::sentinel::{Sentinels, Watch};
use compat_tests::{Reply, args, count_from_env, seed};
use fastrand::Rng;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The servers that these tests are about.
const PRODUCTS: &[Product] = &[Product::Zdb];
/// What a replica has not yet got when its master dies was acknowledged so shortly before. A machine whose cores
/// are busy with others has its share in it.
const LAG_MAX: Duration = Duration::from_secs(1);
/// Writes before a fault, and after it is over.
const WRITES: u64 = 300;

/// Three hosts with a server and a Sentinel each, the first one the master, and one with the clients.
struct Scene {
    product: Product,
    // Before the network: programs end before their hosts.
    sentinels: Sentinels,
    nodes: Vec<Node>,
    clients: Host,
    network: Network,
}

impl Scene {
    #[track_caller]
    fn new(product: Product) -> Scene {
        Scene::with(product, &[])
    }

    /// With further flags of the servers.
    #[track_caller]
    fn with(product: Product, flags: &[&str]) -> Scene {
        let mut network = Network::new();
        let hosts = ["a", "b", "c"].map(|name| network.host(name));
        let clients = network.host("clients");
        let master = Node::start(product, &hosts[0], None, flags);
        let address = master.address();
        let mut nodes = vec![master];
        let replica = |host| Node::start(product, host, Some(address), flags);
        nodes.extend(hosts[1..].iter().map(replica));
        nodes[1..].iter().for_each(|node| drop(node.wait_for_link(address)));
        let sentinels = Sentinels::start(&hosts, Watch::new(address, hosts.len()));
        sentinels.wait_until_ready(nodes.len() - 1);
        Scene { product, sentinels, nodes, clients, network }
    }

    fn master(&self) -> SocketAddr {
        self.nodes[0].address()
    }

    /// Clients that ask the Sentinels.
    fn load(&self) -> Load {
        let find = Find::Sentinels {
            addresses: self.sentinels.addresses(),
            master_name: self.sentinels.watch().master_name.clone(),
        };
        let load = Load::start(Plan::new("far", &self.clients, find));
        load.wait_for_acknowledged(WRITES);
        load
    }

    /// Waits until the Sentinels beside the other servers have made one of those the master.
    #[track_caller]
    fn wait_for_failover(&self) -> SocketAddr {
        let others: Vec<_> = self.sentinels.each[1..].iter().collect();
        let (master, elapsed) = self.sentinels.wait_for_failover_seen_by(&others, self.master());
        println!("{master} is the master after {elapsed:?}");
        assert!(self.nodes[1..].iter().any(|node| node.address() == master), "{master}");
        master
    }

    #[track_caller]
    fn node(&self, address: SocketAddr) -> &Node {
        self.nodes.iter().find(|node| node.address() == address).expect("one of ours")
    }

    /// The old master follows the new one, and what that has is compared with what the clients were told.
    #[track_caller]
    fn check(&self, master: SocketAddr, history: &History) -> Verdict {
        self.nodes[0].wait_for_link(master);
        let mut client = self.node(master).connect();
        let found = read(&mut client, history, self.product.has_history());
        let verdict = check(history, &found.expect("the new master is read"));
        println!("{:?}: {verdict}", self.product);
        verdict.assert_nothing_wrong();
        verdict
    }
}

/// One master at a time, and what is lost was acknowledged just before the fault.
#[track_caller]
fn assert_lost_at_most_the_lag(verdict: &Verdict, fault_at: Instant) {
    verdict.assert_one_master();
    if let Some(loss) = verdict.loss() {
        assert!(loss.before(fault_at) < LAG_MAX, "{verdict}: from {:?} on", loss.before(fault_at));
    }
}

#[test]
fn a_killed_master_is_replaced_under_load() {
    for &product in PRODUCTS {
        let mut scene = Scene::new(product);
        let load = scene.load();
        let fault_at = Instant::now();
        scene.nodes[0].kill();
        let master = scene.wait_for_failover();
        load.wait_for_acknowledged(WRITES);
        let history = load.stop();
        scene.nodes[0].resume();
        let verdict = scene.check(master, &history);
        assert_lost_at_most_the_lag(&verdict, fault_at);
        assert!(verdict.acknowledged_count as u64 >= 2 * WRITES, "{verdict}");
        assert!(verdict.pause_max > scene.sentinels.watch().down_after, "{verdict}");
        let events = scene.sentinels.events();
        assert!(events.iter().any(|event| event.contains("+switch-master")), "{events:#?}");
    }
}

/// A stopped process keeps its connections and its port: only its silence tells.
#[test]
fn a_master_that_is_stopped_for_long_comes_back_as_a_replica() {
    for &product in PRODUCTS {
        let mut scene = Scene::new(product);
        let load = scene.load();
        let fault_at = Instant::now();
        scene.nodes[0].running().pause();
        let master = scene.wait_for_failover();
        load.wait_for_acknowledged(WRITES);
        scene.nodes[0].running().go_on();
        scene.nodes[0].wait_for_link(master);
        load.wait_for_acknowledged(WRITES);
        let verdict = scene.check(master, &load.stop());
        assert_lost_at_most_the_lag(&verdict, fault_at);
    }
}

/// It hears everybody and nobody hears it: it executes what clients send, and cannot say so.
#[test]
fn a_master_that_is_not_heard_is_replaced() {
    for &product in PRODUCTS {
        let scene = Scene::new(product);
        let load = scene.load();
        let fault_at = Instant::now();
        for host in scene.network.hosts().iter().filter(|host| host.name() != "a") {
            scene.network.cut_way(scene.nodes[0].host(), host);
        }
        let master = scene.wait_for_failover();
        load.wait_for_acknowledged(WRITES);
        scene.network.heal_all();
        let verdict = scene.check(master, &load.stop());
        assert_lost_at_most_the_lag(&verdict, fault_at);
        assert!(verdict.unknown_count > 0, "{verdict}");
    }
}

/// A client beside the master that is cut off goes on writing there: both masters acknowledge, and when the link
/// is whole again the old one forgets. The checker must say both.
#[test]
fn a_master_that_is_cut_off_with_a_client_is_found_out() {
    for &product in PRODUCTS {
        let scene = Scene::new(product);
        let load = scene.load();
        let inside = scene.nodes[0].host();
        let near = Load::start(Plan::new("near", inside, Find::Fixed(vec![scene.master()])));
        near.wait_for_acknowledged(WRITES);
        scene.network.isolate(inside);
        let master = scene.wait_for_failover();
        load.wait_for_acknowledged(WRITES);
        near.wait_for_acknowledged(WRITES);
        let near = near.stop();
        scene.network.heal_all();
        let verdict = scene.check(master, &load.stop().with(near));
        let [two] = &verdict.two_masters[..] else { panic!("{verdict}") };
        assert_eq!((two.older.address, two.newer.address), (scene.master(), master));
        assert!(two.count as u64 >= WRITES / 2, "{verdict}");
        assert!(verdict.lost.len() >= two.count, "{verdict}");
        let by_old = |address| address == scene.master();
        assert!(verdict.lost.iter().all(|write| by_old(write.reign.address)), "{verdict}");
    }
}

/// The proxy between a master and its replica: a copy that is late, one that is stalled, one that is cut.
#[test]
fn a_replica_behind_a_proxy_feels_its_faults() {
    const DELAY: Duration = Duration::from_millis(200);
    for &product in PRODUCTS {
        let mut network = Network::new();
        let (near, far) = (network.host("near"), network.host("far"));
        let master = Node::start(product, &near, None, &[]);
        let listen = SocketAddr::new(far.ip(), 0);
        let proxy = far.run(|| Proxy::listen(listen, master.address(), LINE_BYTES_MAX));
        let proxy = proxy.expect("a free port");
        let replica = Node::start(product, &far, Some(proxy.address()), &[]);
        replica.wait_for_link(proxy.address());
        let (mut writer, mut reader) = (master.connect(), replica.connect());
        let mut write = |value: &str| {
            assert!(!writer.call(args!["SET", "key", value]).is_error(), "SET {value}");
        };
        let mut has = |value: &str| reader.call(args!["GET", "key"]) == Reply::bulk(value);

        proxy.set(Way::Back, Link::delayed(DELAY));
        let started = Instant::now();
        write("late");
        replica.wait_for("late write", |_| has("late"));
        assert!(started.elapsed() >= DELAY, "{:?}", started.elapsed());

        proxy.set(Way::Back, Link::STALLED);
        let before = proxy.counts().way(Way::Back).received_bytes;
        write("stalled");
        // The stalled line has it, and the replica has not.
        let arrived = || proxy.counts().way(Way::Back).received_bytes > before;
        compat_tests::server::poll(LAG_MAX, || arrived().then_some(())).expect("it was sent");
        assert!(!has("stalled"));
        proxy.set_both(Link::PASS);
        replica.wait_for("stalled write", |_| has("stalled"));

        let accepted = proxy.counts().accepted_count;
        proxy.refuse(true);
        proxy.cut(Cut::Reset);
        write("cut");
        replica.wait_for("broken link", |info| info.get("master_link_status") == "down");
        assert!(!has("cut"));
        proxy.refuse(false);
        replica.wait_for_link(proxy.address());
        replica.wait_for("write of the new link", |_| has("cut"));
        assert!(proxy.counts().accepted_count > accepted);
    }
}

/// With `--min-replicas 1` a write that was acknowledged is never lost and two masters never acknowledge at once,
/// whatever happens to one server of three and its links. ZDB_FAILOVER_ROUNDS says how often.
#[test]
fn with_a_replica_for_each_write_nothing_acknowledged_is_lost() {
    let mut random = Rng::with_seed(seed("failover"));
    let mut scene = Scene::with(Product::Zdb, &["--min-replicas", "1"]);
    let load = scene.load();
    for round in 0..count_from_env("ZDB_FAILOVER_ROUNDS", 2) {
        // The first of the servers is the master, and the Sentinel beside it the first, too.
        let fault = random.usize(..5);
        let inside = scene.nodes[0].host().clone();
        let stale = Load::start(Plan::new(
            &format!("near-{round}"),
            &inside,
            Find::Fixed(vec![scene.master()]),
        ));
        println!("round {round}: fault {fault} of {}", scene.master());
        match fault {
            0 => scene.nodes[0].kill(),
            1 => scene.nodes[0].running().pause(),
            2 => scene.network.isolate(&inside),
            3 | 4 => {
                for host in scene.network.hosts().iter().filter(|host| host.ip() != inside.ip()) {
                    let (from, to) = if fault == 3 { (&inside, host) } else { (host, &inside) };
                    scene.network.cut_way(from, to);
                }
            }
            _ => unreachable!("there are five"),
        }
        let master = scene.wait_for_failover();
        load.wait_for_acknowledged(WRITES);
        let near = stale.stop();
        match fault {
            0 => scene.nodes[0].resume(),
            1 => scene.nodes[0].running().go_on(),
            _ => scene.network.heal_all(),
        }
        scene.nodes[0].wait_for_link(master);
        load.wait_for_acknowledged(WRITES);
        let found = read(&mut scene.node(master).connect(), &near, true);
        let verdict = check(&near, &found.expect("the new master is read"));
        println!("beside the old master: {verdict}");
        verdict.assert_nothing_wrong();
        verdict.assert_nothing_lost();
        let at = scene.nodes.iter().position(|node| node.address() == master).expect("one of ours");
        scene.nodes.swap(0, at);
        scene.sentinels.each.swap(0, at);
        scene.nodes[1..].iter().for_each(|node| drop(node.wait_for_link(master)));
    }
    let history = load.stop();
    let found = read(&mut scene.nodes[0].connect(), &history, true);
    let verdict = check(&history, &found.expect("the last master is read"));
    println!("{verdict}");
    verdict.assert_nothing_wrong();
    verdict.assert_nothing_lost();
    verdict.assert_one_master();
}
