//! Hosts of their own on one machine: network namespaces on a bridge, and links between them that are cut.
//!
//! The bridge stands in a namespace of its own, too: nothing of it reaches the machine's network, and every network
//! has the same addresses. A thread that has entered a host opens its sockets there, and so do the programs that it
//! starts; the test's other threads reach a host only through [`Host::run`], [`Host::connect`] and the like.
//!
//! A link is cut where packets arrive: nftables drops, in the receiver's namespace, what comes from the sender, so
//! each way can be cut alone and the sender is told nothing. ARP goes on, as with a filter on a real way.
//!
//! All of it goes when the network is dropped, with all processes inside. What a killed run leaves carries its
//! process id and goes at the next start.

use crate::client::Client;
use crate::program::{Running, finish};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

/// Every namespace of ours is named so: this, the process id, the network's number, the host.
const PREFIX: &str = "zdbt-";
/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// The bridge's namespace; no host may be called so.
const SWITCH: &str = "switch";

/// Hosts on a bridge. They go when it is dropped.
pub struct Network {
    name: String,
    hosts: Vec<Host>,
    /// Pairs of receiver and sender: what the first does not hear.
    cuts: Mutex<BTreeSet<(Ipv4Addr, Ipv4Addr)>>,
}

/// A place where programs run. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    ip: Ipv4Addr,
    /// None: this machine, on loopback.
    namespace: Option<String>,
    name: String,
}

impl Network {
    /// Panics where namespaces cannot be made, and says what is needed.
    #[track_caller]
    pub fn new() -> Network {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        static SWEEP: Once = Once::new();
        assert!(
            rustix::process::geteuid().is_root(),
            "hosts are network namespaces, which only root can make: run this test as root, in a container with \
             CAP_SYS_ADMIN and CAP_NET_ADMIN; it is not skipped, for then nobody would see that failover is untested"
        );
        SWEEP.call_once(remove_leftovers);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let network = Network { name, hosts: Vec::new(), cuts: Mutex::default() };
        let switch = network.namespace(SWITCH);
        add_namespace(&switch);
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "bridge", "up"]);
        network
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.name)
    }

    /// One more host, with an address of its own.
    #[track_caller]
    pub fn host(&mut self, name: &str) -> Host {
        let is_new = name != SWITCH && self.hosts.iter().all(|host| host.name() != name);
        assert!(is_new, "there is a host {name} already");
        let number = u8::try_from(self.hosts.len() + 1).expect("at most 254 hosts");
        let address = Ipv4Addr::new(10, 77, 0, number);
        let (switch, namespace) = (self.namespace(SWITCH), self.namespace(name));
        add_namespace(&namespace);
        let port = format!("port{number}");
        let link = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns"];
        ip(&[&["-n", &switch], &link[..], &[&namespace]].concat());
        ip(&["-n", &switch, "link", "set", &port, "master", "bridge", "up"]);
        ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        let place = Place { ip: address, namespace: Some(namespace), name: name.to_owned() };
        let host = Host { place: Arc::new(place) };
        self.hosts.push(host.clone());
        host
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Nothing that `from` sends arrives at `to` any more. The other way is as it was.
    #[track_caller]
    pub fn cut_way(&self, from: &Host, to: &Host) {
        self.change(|cuts| cuts.extend([(to.place.ip, from.place.ip)]));
    }

    #[track_caller]
    pub fn heal_way(&self, from: &Host, to: &Host) {
        self.change(|cuts| cuts.retain(|cut| *cut != (to.place.ip, from.place.ip)));
    }

    /// Neither hears the other.
    #[track_caller]
    pub fn cut(&self, one: &Host, other: &Host) {
        self.cut_way(one, other);
        self.cut_way(other, one);
    }

    #[track_caller]
    pub fn heal(&self, one: &Host, other: &Host) {
        self.heal_way(one, other);
        self.heal_way(other, one);
    }

    /// The host and all others do not hear each other.
    #[track_caller]
    pub fn isolate(&self, host: &Host) {
        self.isolate_with(&[host]);
    }

    /// These hosts hear each other, the others too, and none of one part any of the other.
    #[track_caller]
    pub fn isolate_with(&self, part: &[&Host]) {
        let is_in_part = |ip| part.iter().any(|host| host.place.ip == ip);
        let ips: Vec<Ipv4Addr> = self.hosts.iter().map(|host| host.place.ip).collect();
        self.change(|cuts| {
            for &one in &ips {
                let others = ips.iter().filter(|&&other| is_in_part(one) != is_in_part(other));
                cuts.extend(others.map(|&other| (one, other)));
            }
        });
    }

    /// All links are whole.
    #[track_caller]
    pub fn heal_all(&self) {
        self.change(BTreeSet::clear);
    }

    /// The filter of each receiver whose cuts changed is replaced as a whole.
    #[track_caller]
    fn change(&self, change: impl FnOnce(&mut BTreeSet<(Ipv4Addr, Ipv4Addr)>)) {
        let mut cuts = self.cuts.lock().expect("no filter has panicked");
        let before = cuts.clone();
        change(&mut cuts);
        for host in &self.hosts {
            let of = |cuts: &BTreeSet<(Ipv4Addr, Ipv4Addr)>| -> Vec<Ipv4Addr> {
                let own = cuts.iter().filter(|(receiver, _)| *receiver == host.place.ip);
                own.map(|(_, sender)| *sender).collect()
            };
            let unheard = of(&cuts);
            if of(&before) != unheard {
                host.filter(&unheard);
            }
        }
    }
}

impl Default for Network {
    #[track_caller]
    fn default() -> Network {
        Network::new()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = self.hosts.iter().map(|host| self.namespace(host.name()));
        names.chain([self.namespace(SWITCH)]).for_each(|name| remove_namespace(&name));
    }
}

impl Host {
    /// This machine: its programs listen on loopback, and no link of it can be cut.
    pub fn loopback() -> Host {
        let place = Place { ip: Ipv4Addr::LOCALHOST, namespace: None, name: "loopback".into() };
        Host { place: Arc::new(place) }
    }

    pub fn name(&self) -> &str {
        &self.place.name
    }

    pub fn ip(&self) -> IpAddr {
        self.place.ip.into()
    }

    /// Moves the calling thread into the host, with the sockets that it opens, the threads and the programs that it
    /// starts from now on. For a thread of its own: it does not come back.
    #[track_caller]
    pub fn enter(&self) {
        let Some(namespace) = &self.place.namespace else { return };
        let entered = File::open(path(namespace)).and_then(|file| {
            Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
        });
        entered.unwrap_or_else(|error| panic!("{self} cannot be entered: {error}"));
    }

    /// Does something on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside.join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a program inside, which ends when the value is dropped.
    pub fn start(&self, command: &mut Command) -> Running {
        self.run(|| Running::start(command))
    }

    /// A client inside, of a server anywhere.
    pub fn connect(&self, server: SocketAddr, time_max: Duration) -> io::Result<Client> {
        self.run(|| Client::connect_within(server, time_max))
    }

    /// An address on which nobody listens.
    pub fn free_address(&self) -> SocketAddr {
        let listener = self.run(|| TcpListener::bind((self.ip(), 0)).expect("a free port"));
        listener.local_addr().expect("it is bound")
    }

    /// Replaces the packet filter: what comes from these addresses is dropped.
    #[track_caller]
    fn filter(&self, unheard: &[Ipv4Addr]) {
        let drops: String =
            unheard.iter().map(|address| format!("ip saddr {address} drop\n")).collect();
        let rules = format!(
            "flush ruleset\n\
             table inet cuts {{\n\
             chain arriving {{\n\
             type filter hook input priority 0\n\
             {drops}\
             }}\n\
             }}\n"
        );
        let ended = self.run(|| finish(Command::new("nft").args(["-f", "-"]), rules.as_bytes()));
        assert!(
            ended.status.success(),
            "nft does not cut links of {self}: {}\nit wants a kernel with CONFIG_NF_TABLES_INET",
            ended.stderr
        );
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} ({})", self.place.name, self.place.ip)
    }
}

fn path(namespace: &str) -> PathBuf {
    Path::new(NAMES).join(namespace)
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let ended = finish(Command::new("ip").args(arguments), b"");
    assert!(
        ended.status.success(),
        "ip {}: {}\nhosts want root with CAP_SYS_ADMIN and CAP_NET_ADMIN, and a kernel with CONFIG_NET_NS, \
         CONFIG_VETH and CONFIG_BRIDGE",
        arguments.join(" "),
        ended.stderr
    );
}

#[track_caller]
fn add_namespace(name: &str) {
    // The first one makes /run/netns a mount of its own: two at once would mount it twice.
    static FIRST: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FIRST.lock();
    ip(&["netns", "add", name]);
}

/// Ends the processes inside and the namespace, its links with it. One that is gone is gone.
fn remove_namespace(name: &str) {
    let Ok(inside) = std::fs::metadata(path(name)) else { return };
    kill_all(inside.ino());
    let ended = finish(Command::new("ip").args(["netns", "delete", name]), b"");
    // Another run may have met the same left-over.
    if !ended.status.success() && path(name).exists() {
        eprintln!("namespace {name} is left: {}", ended.stderr);
    }
}

/// `kill -9` for all processes in a network namespace, but not for this one.
fn kill_all(namespace: u64) {
    let wanted = format!("net:[{namespace}]");
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id().cast_signed()) else {
            continue;
        };
        let is_inside = std::fs::read_link(entry.path().join("ns/net"))
            .is_ok_and(|link| link.to_str() == Some(&wanted));
        if is_inside && let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Namespaces whose process is gone: it was killed before it could remove them.
fn remove_leftovers() {
    for entry in std::fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            eprintln!("removing namespace {name}, which a killed run left");
            remove_namespace(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::poll;
    use std::io::ErrorKind;
    use std::net::UdpSocket;

    const TIME_MAX: Duration = Duration::from_secs(10);

    /// A socket in a host; packets of one host to another arrive in order, and none waits for an answer.
    fn socket(host: &Host) -> UdpSocket {
        let socket = host.run(|| UdpSocket::bind((host.ip(), 0)).expect("a free port"));
        socket.set_read_timeout(Some(TIME_MAX)).expect("a socket takes it");
        socket
    }

    fn send(from: &UdpSocket, to: &UdpSocket, what: &[u8]) {
        from.send_to(what, to.local_addr().expect("it is bound")).expect("nobody tells the sender");
    }

    #[track_caller]
    fn receive(socket: &UdpSocket) -> Vec<u8> {
        let mut bytes = [0; 100];
        let count = socket.recv(&mut bytes).expect("it arrives");
        bytes[..count].to_vec()
    }

    #[test]
    fn each_way_is_cut_and_healed_alone() {
        let mut network = Network::new();
        let hosts = ["a", "b", "c"].map(|name| network.host(name));
        let sockets = hosts.each_ref().map(socket);
        let [a, b, c] = &hosts;
        let [at_a, at_b, at_c] = &sockets;
        network.cut_way(a, b);
        send(at_a, at_b, b"cut");
        send(at_b, at_a, b"the other way");
        assert_eq!(receive(at_a), b"the other way");
        send(at_a, at_c, b"another host");
        assert_eq!(receive(at_c), b"another host");
        network.heal_way(a, b);
        send(at_a, at_b, b"healed");
        assert_eq!(receive(at_b), b"healed", "what was sent before is lost");
        network.cut(a, b);
        send(at_a, at_b, b"cut");
        send(at_b, at_a, b"cut");
        network.heal(a, b);
        send(at_a, at_b, b"healed");
        send(at_b, at_a, b"healed");
        assert_eq!((receive(at_a), receive(at_b)), (b"healed".to_vec(), b"healed".to_vec()));
        network.isolate(c);
        for (from, to) in [(at_a, at_c), (at_b, at_c), (at_c, at_a), (at_c, at_b)] {
            send(from, to, b"cut");
        }
        send(at_a, at_b, b"together");
        assert_eq!(receive(at_b), b"together");
        network.heal_all();
        for (from, to) in [(at_a, at_c), (at_b, at_c), (at_c, at_a), (at_c, at_b)] {
            send(from, to, b"healed");
            assert_eq!(receive(to), b"healed");
        }
    }

    /// A cut is silence, also for a connection that is open.
    #[test]
    fn a_connection_over_a_cut_link_hangs_and_goes_on() {
        use std::io::{Read, Write};
        let mut network = Network::new();
        let (near, far) = (network.host("near"), network.host("far"));
        let listener = far.run(|| TcpListener::bind((far.ip(), 0)).expect("a free port"));
        let address = listener.local_addr().expect("it is bound");
        let mut client = near.run(|| std::net::TcpStream::connect(address).expect("it listens"));
        let mut server = listener.accept().expect("it connects").0;
        network.cut_way(&near, &far);
        client.write_all(b"hello").expect("the kernel takes it");
        server.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket takes it");
        let error = server.read(&mut [0; 5]).expect_err("it does not arrive");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let refusal = near.connect(address, Duration::from_millis(50)).err();
        assert_eq!(refusal.map(|error| error.kind()), Some(ErrorKind::TimedOut));
        network.heal_all();
        server.set_read_timeout(Some(TIME_MAX)).expect("a socket takes it");
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).expect("it is sent again");
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn programs_are_paused_killed_and_gone_with_the_network() {
        let mut network = Network::new();
        let host = network.host("one");
        let mut running = host.start(Command::new("sleep").arg("1000"));
        running.pause();
        running.go_on();
        assert!(running.is_running());
        running.kill();
        let mut other = host.start(Command::new("sleep").arg("1000"));
        let names = [network.namespace("one"), network.namespace(SWITCH)];
        assert!(names.iter().all(|name| path(name).exists()));
        drop(network);
        assert!(!names.iter().any(|name| path(name).exists()));
        assert_eq!(poll(TIME_MAX, || (!other.is_running()).then_some(())), Some(()));
    }

    #[test]
    fn what_a_killed_run_left_is_removed() {
        // The id of a process that is gone.
        let mut gone = Command::new("true").spawn().expect("it runs");
        gone.wait().expect("it ends");
        let name = format!("{PREFIX}{}-0", gone.id());
        let mut network = Network { name, hosts: Vec::new(), cuts: Mutex::default() };
        add_namespace(&network.namespace(SWITCH));
        ip(&["-n", &network.namespace(SWITCH), "link", "add", "bridge", "type", "bridge"]);
        let host = network.host("left");
        let mut left = host.start(Command::new("sleep").arg("1000"));
        remove_leftovers();
        assert!(!path(&network.namespace("left")).exists());
        assert_eq!(poll(TIME_MAX, || (!left.is_running()).then_some(())), Some(()));
    }
}
