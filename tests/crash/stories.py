"""probe"""
from pathlib import Path
import basecache
from basecache.agent.host import Host

def run(place):
    from tests.support.place import Place
    p=Place(place)
    p.host().ensure("small")
