from importlib.metadata import version

from cluster.driver.versions import package_versions


def test_versions_are_those_of_installed_packages_in_the_order_asked():
    found = package_versions(["torch", "no-such-package-anywhere", "numpy"])
    assert list(found.items()) == [("torch", version("torch")), ("numpy", version("numpy"))]
