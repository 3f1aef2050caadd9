//! proto
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod support;
#[path = "support/lab/mod.rs"]
mod lab;
use lab::mount::*; use lab::image::*; use support::hostile::Random;

#[test]
fn proto() {
    let Some(lab) = Lab::open() else { return };
    for fs in FileSystem::ALL {
        let t = support::process::now();
        let image = fs.make();
        eprintln!("{} made {:?}", fs.name(), t.elapsed());
        let m = Mounted::mount(fs, image);
        eprintln!("mounted {:?} {}", t.elapsed(), m.disk().moment());
        let start = m.disk().moment();
        for i in 0..8u8 {
            use std::io::Write;
            let mut f = std::fs::File::create(m.path().join(format!("f{i}"))).unwrap();
            for _ in 0..2000 { f.write_all(&[b'a' + i; 1000]).unwrap(); }
            if i == 3 { f.sync_all().unwrap(); eprintln!("synced at {}", m.disk().moment()); }
        }
        eprintln!("wrote {:?} {}", t.elapsed(), m.disk().moment());
        let end = m.disk().moment();
        let rec = m.disk().recording();
        drop(m);
        eprintln!("unmounted {:?}", t.elapsed());
        lab.reboot();
        for (n, rest) in [Rest::None, Rest::Half, Rest::Random, Rest::Random].into_iter().enumerate() {
            let mut random = Random::new(n as u64);
            let at = start + random.below(end - start + 1);
            let m = Mounted::mount(fs, rec.cut(at, rest, &mut random));
            let sizes: Vec<_> = (0..8).map(|i| std::fs::read(m.path().join(format!("f{i}"))).map(|b| (b.len(), b.iter().filter(|&&b| b == 0).count())).ok()).collect();
            eprintln!("{} {at}/{end} {rest:?} {sizes:?} {:?}", fs.name(), t.elapsed());
        }
    }
}
