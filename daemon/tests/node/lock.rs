use std::time::Duration;

use weft_daemon::lock::{Error, Lock, refuse_beside_flanneld};
use weft_netns::{in_world, wait_until};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_lock_ends_with_its_process_however_that_ends() {
    in_world(|world| {
        let run_dir = world.scratch("run");
        let file = run_dir.join("weftd.lock");
        let holder = world.spawn(&format!("flock --no-fork {} sleep 600", file.display()));
        let is_held = || matches!(Lock::take(&run_dir), Err(Error::Held { .. }));
        wait_until("the lock to be held", SOON, is_held);
        std::fs::write(&file, format!("{}\n", holder.pid())).unwrap();
        let why = Lock::take(&run_dir).unwrap_err().to_string();
        assert!(why.contains(&format!("kill {}", holder.pid())), "{why}");
        world.exec(&format!("kill -9 {}", holder.pid()));
        wait_until("the lock to be free", SOON, || Lock::take(&run_dir).is_ok());
    });
}

#[test]
fn a_flanneld_that_lives_in_our_namespace_is_not_worked_beside() {
    in_world(|world| {
        let flanneld = world.scratch("flannel").join("flanneld");
        world.exec(&format!("cp $(command -v sleep) {}", flanneld.display()));
        let elsewhere = world.netns("elsewhere");
        let sleeping = format!("{} 600", flanneld.display());

        let stranger = elsewhere.spawn(&sleeping);
        let comm = format!("/proc/{}/comm", stranger.pid());
        wait_until("flanneld to run elsewhere", SOON, || {
            std::fs::read_to_string(&comm).is_ok_and(|comm| comm == "flanneld\n")
        });
        refuse_beside_flanneld().unwrap();

        let rival = world.spawn(&sleeping);
        wait_until("flanneld to be seen", SOON, || {
            refuse_beside_flanneld().is_err()
        });
        let why = refuse_beside_flanneld().unwrap_err().to_string();
        for part in [&*format!("process {}", rival.pid()), "stop flanneld"] {
            assert!(why.contains(part), "{why:?} does not say {part:?}");
        }
        drop(rival);
        refuse_beside_flanneld().unwrap();
    });
}
