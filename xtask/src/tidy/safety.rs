//! Where `unsafe` may be, and what must be said beside it.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Violation;
use crate::source_tree::SourceFile;

/// Finds `unsafe` outside the listed modules, and `unsafe` without its proof.
pub(super) fn check(file: &SourceFile) -> Vec<Violation> {
    let Some(syntax) = file.syntax() else {
        return Vec::new();
    };
    let mut finder = UnsafeCode::default();
    finder.visit_file(syntax);
    let mut violations = Vec::new();
    if let Some(&first) = finder
        .all
        .first()
        .filter(|_| !is_test_of_listed(&file.path))
    {
        violations.extend(check_module(file, syntax, first));
    }
    let lines: Vec<&str> = file.text.lines().collect();
    for line in finder.needs_proof {
        if !has_proof(&lines, line) {
            violations.push(Violation::new(
                &file.path,
                line,
                "safety-comment",
                "no `// SAFETY:` comment directly above",
            ));
        }
    }
    violations
}

/// Finds crates that do not forbid `unsafe` though they must, and listed modules without any.
pub(super) fn check_lists(files: &[SourceFile]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for path in FORBIDDING_ROOTS {
        let forbids = |file: &&SourceFile| file.text.contains("#![forbid(unsafe_code)]");
        if files
            .iter()
            .filter(|file| file.path == path)
            .all(|file| !forbids(&file))
        {
            violations.push(Violation::new(
                path,
                1,
                "forbid-unsafe",
                "no #![forbid(unsafe_code)]",
            ));
        }
    }
    for &(path, _) in UNSAFE_MODULES {
        if !files
            .iter()
            .any(|file| file.path == path && file.text.contains("unsafe"))
        {
            let message = format!("the list of modules with unsafe code names {path}");
            violations.push(Violation::new(OWN_PATH, 1, "unsafe-list", message));
        }
    }
    violations
}

/// The rules for a module that holds `unsafe`, the first of it at `line`.
fn check_module(file: &SourceFile, syntax: &syn::File, line: usize) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut broken = |rule, message: &str| {
        violations.push(Violation::new(&file.path, line, rule, message));
    };
    if !UNSAFE_MODULES.iter().any(|(path, _)| *path == file.path) {
        broken(
            "unsafe-module",
            "this module is not on the list of those with unsafe code",
        );
    }
    if !file
        .text
        .lines()
        .any(|line| line.starts_with("// UNSAFETY: "))
    {
        broken(
            "unsafety-line",
            "no `// UNSAFETY:` line that says what lives here",
        );
    }
    if !syntax.attrs.iter().any(is_opt_in) {
        broken(
            "unsafe-opt-in",
            "no #![expect(unsafe_code, reason = ...)] at the top",
        );
    }
    violations
}

/// Whether these are the tests of a listed module: they stand under its opt-in.
fn is_test_of_listed(path: &str) -> bool {
    let module = path
        .strip_suffix("/tests.rs")
        .map(|folder| format!("{folder}.rs"));
    UNSAFE_MODULES
        .iter()
        .any(|(listed, _)| Some(*listed) == module.as_deref())
}

/// Whether an attribute is `#![expect(unsafe_code, ...)]`.
fn is_opt_in(attribute: &syn::Attribute) -> bool {
    let list = attribute.meta.require_list();
    attribute.path().is_ident("expect")
        && list.is_ok_and(|list| list.tokens.to_string().starts_with("unsafe_code"))
}

/// Whether a comment with `SAFETY:` stands above `line`, in the same statement or item.
fn has_proof(lines: &[&str], line: usize) -> bool {
    for above in lines.iter().take(line - 1).rev().map(|line| line.trim()) {
        if above.starts_with("//") {
            if above.starts_with("// SAFETY:") {
                return true;
            }
        } else if above.is_empty() || above.ends_with([';', '{', '}', ',']) {
            return false;
        }
    }
    false
}

/// Lines of everything that is `unsafe`.
#[derive(Default)]
struct UnsafeCode {
    all: Vec<usize>,
    needs_proof: Vec<usize>,
}

impl UnsafeCode {
    fn add(&mut self, span: Span, needs_proof: bool) {
        let line = span.start().line;
        self.all.push(line);
        if needs_proof {
            self.needs_proof.push(line);
        }
    }
}

impl<'ast> Visit<'ast> for UnsafeCode {
    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.add(block.unsafe_token.span(), true);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let Some(token) = &item.unsafety {
            self.add(token.span(), true);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.add(item.abi.span(), false);
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        if let Some(token) = &signature.unsafety {
            self.add(token.span(), false);
        }
        visit::visit_signature(self, signature);
    }
}

const OWN_PATH: &str = "xtask/src/tidy/safety.rs";

/// The top files of the crates that hold no `unsafe` at all.
const FORBIDDING_ROOTS: [&str; 3] = [
    "crates/snapshot-format/src/lib.rs",
    "crates/snapshot-store/src/lib.rs",
    "crates/vmsnap/src/main.rs",
];

/// The modules that may hold `unsafe`, and what for.
const UNSAFE_MODULES: &[(&str, &str)] = &[
    (
        "benches/src/clones.rs",
        "vouches that the memory of a clone outlives its machine",
    ),
    ("benches/src/guest.rs", "hands guest memory to the engine"),
    ("benches/src/kvm.rs", "registers guest memory with KVM"),
    (
        "benches/src/live/guest.rs",
        "makes a machine that writes, and interrupts its vCPU",
    ),
    (
        "benches/src/restore/one_page.rs",
        "userfaultfd as most VMMs use it",
    ),
    ("benches/src/restore/plain.rs", "maps a raw image"),
    (
        "crates/hypervisor-bridge/src/paused.rs",
        "the promise that a machine is paused",
    ),
    (
        "crates/hypervisor-hvf/src/framework/calls.rs",
        "calls Hypervisor.framework",
    ),
    (
        "crates/hypervisor-hvf/src/framework/host.rs",
        "asks the kernel of macOS what the host is",
    ),
    (
        "crates/hypervisor-hvf/src/framework/newer.rs",
        "looks up and makes calls of later versions of Hypervisor.framework",
    ),
    (
        "crates/hypervisor-hvf/src/stop.rs",
        "keeps the promise that the machine is paused",
    ),
    (
        "crates/hypervisor-kvm/src/dirty/entries.rs",
        "maps dirty rings",
    ),
    (
        "crates/hypervisor-kvm/src/dirty/log.rs",
        "a promise about memory slots",
    ),
    (
        "crates/hypervisor-kvm/src/dirty/ring.rs",
        "promises about descriptors and memory slots",
    ),
    (
        "crates/hypervisor-kvm/src/dirty/slots.rs",
        "a promise about memory slots",
    ),
    (
        "crates/hypervisor-bridge/src/testing/machine.rs",
        "keeps the promise that the machine is paused",
    ),
    ("crates/hypervisor-kvm/src/ioctl.rs", "calls KVM"),
    (
        "crates/hypervisor-kvm/tests/dirty/machine.rs",
        "makes machines that write where they are told to",
    ),
    (
        "crates/hypervisor-kvm/tests/dirty/memory.rs",
        "maps memory for them",
    ),
    (
        "crates/hypervisor-kvm/tests/kvm.rs",
        "makes machines of its own",
    ),
    (
        "crates/hypervisor-kvm/tests/mapped.rs",
        "maps a file that is cut, as guest memory",
    ),
    (
        "crates/hypervisor-kvm/tests/syscalls.rs",
        "makes machines of its own",
    ),
    (
        "crates/hypervisor-kvm/tests/x86/machine.rs",
        "makes machines and signals their threads",
    ),
    (
        "crates/snapshot-checks/src/block/spawn.rs",
        "asks to be traced between fork and exec",
    ),
    (
        "crates/snapshot-format/tests/amplification.rs",
        "an allocator that counts",
    ),
    (
        "crates/snapshot-memory/src/backend/fs/macos.rs",
        "calls renameatx_np",
    ),
    (
        "crates/snapshot-memory/src/backend/fs/share.rs",
        "a raw ioctl on two descriptors",
    ),
    (
        "crates/snapshot-memory/src/backend/sysctl.rs",
        "calls sysctlbyname",
    ),
    (
        "crates/snapshot-memory/src/bus_guard/calls.rs",
        "calls the kernel with addresses of guest memory",
    ),
    (
        "crates/snapshot-memory/src/bus_guard/guard.rs",
        "a table that a signal handler reads",
    ),
    (
        "crates/snapshot-memory/src/bus_guard/signal.rs",
        "handles SIGBUS",
    ),
    (
        "crates/snapshot-memory/tests/bus_guard.rs",
        "maps files that are cut",
    ),
    (
        "crates/snapshot-memory/tests/page_handler/rig/guest.rs",
        "gives pages of guest memory back",
    ),
    (
        "crates/snapshot-memory/src/direct/alignment.rs",
        "calls statx",
    ),
    (
        "crates/snapshot-memory/src/direct/read_ring.rs",
        "hands buffers to an io_uring to be filled",
    ),
    (
        "crates/snapshot-memory/src/working_set/mincore.rs",
        "asks mincore which pages are resident",
    ),
    (
        "crates/snapshot-memory/src/direct/ring.rs",
        "hands memory to an io_uring",
    ),
    (
        "crates/snapshot-memory/src/guest_io.rs",
        "hands guest memory to the kernel",
    ),
    (
        "crates/snapshot-memory/src/handler/descriptors.rs",
        "takes descriptors out of messages",
    ),
    (
        "crates/snapshot-memory/src/handler/peer.rs",
        "opens descriptors of processes",
    ),
    ("crates/snapshot-memory/src/mapping.rs", "maps memory"),
    (
        "crates/snapshot-memory/src/plan/verity.rs",
        "asks whether the kernel checks a file",
    ),
    (
        "crates/snapshot-memory/src/plan/watch.rs",
        "hands mappings to the guard of mapped files",
    ),
    (
        "crates/snapshot-memory/src/priority.rs",
        "asks the kernel for another priority",
    ),
    (
        "crates/snapshot-memory/src/rust_vmm.rs",
        "hands out memory that vm-memory maps",
    ),
    (
        "crates/snapshot-memory/src/testing/filter.rs",
        "a handler of refused system calls",
    ),
    (
        "crates/snapshot-memory/src/uffd/fill.rs",
        "puts pages into memory by userfaultfd",
    ),
    (
        "crates/snapshot-memory/src/uffd/ioctl.rs",
        "calls userfaultfd and PAGEMAP_SCAN",
    ),
    (
        "crates/tinyvm/src/kvm/kick.rs",
        "a signal that ends a running vCPU's run",
    ),
    (
        "crates/tinyvm/src/kvm/paused.rs",
        "keeps the promise that the machine is paused",
    ),
    (
        "crates/tinyvm/src/kvm/proof/image.rs",
        "machine code as data, between symbols",
    ),
    ("crates/tinyvm/src/kvm/vm.rs", "gives memory slots to KVM"),
    (
        "crates/tinyvm/src/process/paused.rs",
        "keeps the promise that the machine is paused",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = UNSAFE_MODULES[0].0;
    const TOP: &str = "// UNSAFETY: all of it.\n#![expect(unsafe_code, reason = \"x\")]\n";

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let file = SourceFile::new(path, text);
        check(&file)
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    }

    #[test]
    fn unsafe_outside_the_list_is_found() {
        for code in [
            "unsafe fn f() {}",
            "unsafe extern \"C\" {}",
            "trait T { unsafe fn f(); }",
        ] {
            assert_eq!(
                rules("a.rs", &format!("{TOP}{code}")),
                ["unsafe-module"],
                "{code}"
            );
        }
        assert!(rules("a.rs", "fn safe() {}").is_empty());
        assert_eq!(
            rules("src/a/tests.rs", &format!("{TOP}unsafe fn f() {{}}")),
            ["unsafe-module"]
        );
        let tests = LISTED.replace(".rs", "/tests.rs");
        assert!(rules(&tests, "unsafe fn f() {}").is_empty());
    }

    #[test]
    fn a_module_that_opts_in_says_why() {
        assert_eq!(
            rules(LISTED, "unsafe fn f() {}"),
            ["unsafety-line", "unsafe-opt-in"]
        );
        assert!(rules(LISTED, &format!("{TOP}unsafe fn f() {{}}")).is_empty());
    }

    #[test]
    fn a_block_without_a_proof_is_found() {
        let bare = "fn f() {\n    // careful\n    let a =\n        unsafe { g() };\n}\n";
        assert_eq!(rules(LISTED, &format!("{TOP}{bare}")), ["safety-comment"]);
        let far = "fn f() {\n    // SAFETY: one\n    h();\n    unsafe { g() }\n}\n";
        assert_eq!(rules(LISTED, &format!("{TOP}{far}")), ["safety-comment"]);
        let proved = bare.replace("careful", "SAFETY: g has no precondition");
        assert!(rules(LISTED, &format!("{TOP}{proved}")).is_empty());
        assert_eq!(
            rules(LISTED, &format!("{TOP}unsafe impl Send for A {{}}")),
            ["safety-comment"]
        );
    }

    #[test]
    fn a_crate_that_must_forbid_unsafe_and_does_not_is_found() {
        let format = SourceFile::new(FORBIDDING_ROOTS[0], "#![forbid(unsafe_code)]");
        let found = check_lists(&[format, SourceFile::new(LISTED, "unsafe")]);
        let forbid = found
            .iter()
            .filter(|violation| violation.rule == "forbid-unsafe")
            .count();
        assert_eq!(forbid, FORBIDDING_ROOTS.len() - 1);
        let stale = found
            .iter()
            .filter(|violation| violation.rule == "unsafe-list")
            .count();
        assert_eq!(stale, UNSAFE_MODULES.len() - 1);
    }
}
